// What comes before the first byte of a migration: which engine its channels send with, memory that
// is registered for it, and the channels themselves, each with its first marks. Chooses by
// src/schedule/engine-choice.ts; whoever calls takes down what was made.

import { availableParallelism } from 'node:os'
import { lockedMemoryLimitBytes } from '../channel/locked-memory.ts'
import {
  SendChannel,
  type SendChannelListener,
  type SendChannelOptions,
} from '../channel/send-channel.ts'
import { pathTo } from '../channel/uri.ts'
import type { TrackerChoice } from '../guest/dirty-tracker.ts'
import { MultifdError } from '../kit/errors.ts'
import { CHANNELS_MAX } from '../kit/limits.ts'
import {
  type NativeCompression,
  type NativeEndpoint,
  type NativeSendGroup,
  toError,
} from '../kit/native.ts'
import {
  chooseEngine,
  chooseUnregistered,
  type EngineChoice,
  type EngineQuestion,
  mayRegister,
  needsProbe,
  type Probed,
} from '../schedule/engine-choice.ts'
import { type ChannelMarks, lockedMemoryShareBytes } from '../schedule/flush-policy.ts'
import {
  adaptiveFlush,
  type FlushControl,
  fixedFlush,
  plainFlush,
  splicedFlush,
} from './flush-control.ts'
import type { ChannelReport } from './progress.ts'
import type { SourceSettings } from './source-options.ts'
import type { Vmm } from './vmm.ts'

/** What the choice of an engine depends on. */
export type EngineSettings = Pick<SourceSettings, 'engine' | 'zeroCopy' | 'memory'> & {
  vmm: Pick<Vmm, 'discards'>
  compression?: NativeCompression
}

/** What is the same for every channel. */
export type ChannelSettings = Pick<
  SourceSettings,
  | 'multifdChannels'
  | 'zeroCopy'
  | 'flushThresholds'
  | 'maxBandwidthBytesPerSecond'
  | 'uuid'
  | 'connectTimeoutMs'
> & {
  compression?: NativeCompression
  compressionLevel?: number | undefined
  /** For destinations of ours, which must know; default false. */
  largePackets?: boolean
}

/**
 * Before tracking is armed, and before the destination waits for us: registering takes as long as
 * reading all guest memory would.
 * @throws MultifdError ERR_MULTIFD_UNSUPPORTED where zero-copy was asked for and can never be.
 */
export async function prepareEngine(parts: {
  settings: EngineSettings
  endpoint: NativeEndpoint
  tracker: TrackerChoice
  group: NativeSendGroup
}): Promise<EngineChoice> {
  const { settings, group } = parts
  let question = questionOf(parts.settings, parts.endpoint, parts.tracker)
  if (mayRegister(question)) {
    const populatedBytes = await settings.memory.populatedBytes()
    question = { ...question, populated: populatedBytes >= settings.memory.totalBytes }
  }
  const choice = chooseEngine(question, needsProbe(question) ? await probe(group) : undefined)
  if (!choice.registerMemory) return choice
  const refused = await group.registerMemory()
  if (refused === undefined) return choice
  const { message } = toError(refused, 'registering guest memory failed')
  return chooseUnregistered(question, choice, message)
}

function questionOf(
  settings: EngineSettings,
  endpoint: NativeEndpoint,
  { tracker, reason }: TrackerChoice,
): EngineQuestion {
  const { engine, zeroCopy, memory, vmm, compression = 'none' } = settings
  const privateCopies = tracker === 'hash'
  if (zeroCopy === 'on' && privateCopies) {
    throw new MultifdError(
      'ERR_MULTIFD_UNSUPPORTED',
      'zeroCopy is on, but the hash tracker sends private copies of pages; ' +
        `use zeroCopy: 'off' (${reason})`,
    )
  }
  const limitBytes = lockedMemoryLimitBytes()
  const budgetBytes = lockedMemoryShareBytes({ lockedMemoryLimitBytes: limitBytes, channels: 1 })
  return {
    asked: { engine, zeroCopy },
    path: pathTo(endpoint),
    privateCopies,
    compressed: compression !== 'none',
    populated: true, // as long as nobody looked
    lockable: budgetBytes >= memory.totalBytes,
    discards: vmm.discards !== false,
  }
}

async function probe(group: NativeSendGroup): Promise<Probed> {
  const probed = await group.probeIoUring()
  return 'errno' in probed ? toError(probed, 'probing io_uring failed').message : probed
}

/**
 * Whether packets between our own ends shall be large. They are for bytes that the kernel copies;
 * where pages go out from where they lie, smaller records follow the marks of zero-copy closely.
 */
export function wantsLargePackets(
  compression: NativeCompression,
  endpoint: NativeEndpoint,
  { zeroCopy }: Pick<EngineChoice, 'zeroCopy'>,
): boolean {
  return compression === 'none' && !(zeroCopy && pathTo(endpoint) === 'network')
}

/**
 * How many channels may work at a time. On one machine each keeps a processor busy, with its two
 * ends in turn: more of them than processors only add switches and wake-ups.
 */
export function channelsAtOnce(endpoint: NativeEndpoint): number {
  return pathTo(endpoint) === 'network' ? CHANNELS_MAX : availableParallelism()
}

/** What channels are opened with. */
export interface ChannelParts {
  settings: ChannelSettings
  endpoint: NativeEndpoint
  group: NativeSendGroup
  choice: EngineChoice
  listener: SendChannelListener
  /** Takes each channel at once: the next one may fail. */
  opened: (channel: SendChannel) => void
}

/**
 * Starts to connect the channels, each with its first marks. `ready` resolves when all of them are
 * connected and introduced.
 */
export function openChannels(parts: ChannelParts): {
  flush: FlushControl
  ready: () => Promise<void>
} {
  const flush = flushOf(parts.settings, parts.choice)
  const channels = flush.marks().map((marks, channelId) => openChannel(parts, channelId, marks))
  const ready = async (): Promise<void> => {
    await Promise.all(channels.map((channel) => channel.ready))
    for (const channel of channels) noteIfPlain(channel, flush)
  }
  return { flush, ready }
}

/**
 * Connects the channels one after the other, in the order of their ids: of more channels than a
 * QEMU expects it then turns away the last ones. (One whose id is the number that it expects ends
 * QEMU 10.2 with a crash.)
 */
export async function openChannelsInTurn(parts: ChannelParts): Promise<FlushControl> {
  const flush = flushOf(parts.settings, parts.choice)
  for (const [channelId, marks] of flush.marks().entries()) {
    const channel = openChannel(parts, channelId, marks)
    await channel.ready
    noteIfPlain(channel, flush)
  }
  return flush
}

function openChannel(parts: ChannelParts, channelId: number, marks: ChannelMarks): SendChannel {
  const { settings, endpoint, group, choice, listener, opened } = parts
  const channel = new SendChannel(
    group,
    {
      channelId,
      endpoint,
      uuid: settings.uuid,
      connectTimeoutMs: settings.connectTimeoutMs,
      engine: choice.engine,
      zeroCopy: choice.zeroCopy,
      zeroCopyRequired: settings.zeroCopy === 'on',
      largePackets: settings.largePackets ?? false,
      ...compressionOf(settings),
      ...marks,
    },
    listener,
  )
  paceChannel(channel, settings.maxBandwidthBytesPerSecond)
  opened(channel)
  return channel
}

/** Twice the limit smooths within an extent without holding one channel below the limit. */
export function paceChannel(channel: SendChannel, limitBytesPerSecond: number): void {
  channel.setPacingRate(2 * limitBytesPerSecond)
}

function compressionOf(settings: ChannelSettings): Partial<SendChannelOptions> {
  const { compression, compressionLevel } = settings
  return {
    ...(compression === undefined ? {} : { compression }),
    ...(compressionLevel === undefined ? {} : { compressionLevel }),
  }
}

function noteIfPlain({ channelId, engineReport }: SendChannel, flush: FlushControl): void {
  if (engineReport.mode === 'plain') flush.channelIsPlain(channelId)
}

function flushOf(
  settings: ChannelSettings,
  { engine, zeroCopy, whyPlain }: EngineChoice,
): FlushControl {
  const channels = settings.multifdChannels
  if (!zeroCopy) return plainFlush(channels, whyPlain)
  if (engine === 'splice') return splicedFlush(channels)
  const limitBytes = lockedMemoryLimitBytes()
  const budgetBytes = lockedMemoryShareBytes({ lockedMemoryLimitBytes: limitBytes, channels })
  if (settings.zeroCopy === 'on') return fixedFlush(settings.flushThresholds, budgetBytes)
  return adaptiveFlush(channels, budgetBytes)
}

/** Everything that is known about a channel: its counters, what it does, and why. */
export function reportOf(
  channel: SendChannel,
  flush: FlushControl,
  { reason, zeroCopy }: EngineChoice,
): ChannelReport {
  const { engine, mode, downgrades } = channel.engineReport
  const report = {
    channelId: channel.channelId,
    ...channel.counters,
    engine,
    sendMode: mode,
    engineReason: [reason, ...downgrades].join('; '),
    ...flush.report(channel.channelId),
  }
  // Opened for zero-copy, but it cannot: then the policy's marks mean nothing.
  if (!zeroCopy || mode !== 'plain') return report
  return { ...report, zeroCopyMode: 'off', flushReason: downgrades.at(-1) ?? 'not to be had' }
}

/** What all channels together ran with, each name and sentence once. */
export function engineOf(
  channels: readonly SendChannel[],
  choice: EngineChoice | undefined,
): { engine: string; engineReason: string } {
  const reports = channels.map(({ engineReport }) => engineReport)
  const downgrades = reports.flatMap((report) => report.downgrades)
  return {
    engine: unique(reports.map(({ engine }) => engine)),
    engineReason: unique([choice?.reason ?? '', ...downgrades], '; '),
  }
}

function unique(values: readonly string[], separator = ', '): string {
  return [...new Set(values)].join(separator)
}
