// Asks the flush policy about a channel whenever an extent of it is done, and tells the channel
// what was decided. It knows channels by their counters and marks only; policies are pure and live
// in src/schedule.

import type { SendChannel } from '../channel/send-channel.ts'
import { trace } from '../kit/trace.ts'
import { adaptivePolicy } from '../schedule/adaptive-policy.ts'
import {
  type AdaptiveSnapshot,
  type AdaptiveThresholds,
  decidedAnew,
  marksDiffer,
  startThresholds,
} from '../schedule/adaptive-thresholds.ts'
import {
  type ChannelMarks,
  clampToBudget,
  type FlushPolicy,
  type FlushThresholds,
  fixedPolicy,
} from '../schedule/flush-policy.ts'

/**
 * What a channel does with zero-copy. `probing`, `on` and `off` are the adaptive policy's; `fixed`:
 * always used, with marks that stay, by `zeroCopy: 'on'` or because the engine is `splice`.
 */
export type ZeroCopyMode = 'probing' | 'on' | 'off' | 'fixed'

export interface FlushReport {
  highWaterBytes: number
  lowWaterBytes: number
  zeroCopyMode: ZeroCopyMode
  /** Why the marks and the mode are what they are. */
  flushReason: string
}

/** What a policy's thresholds say, to those who do not know the policy. */
interface Reading<Thresholds extends ChannelMarks> {
  policy: FlushPolicy<AdaptiveSnapshot, Thresholds>
  mode: (thresholds: Thresholds) => ZeroCopyMode
  reason: (thresholds: Thresholds) => string
  /** Something was decided but to go on as before. */
  decided: (before: Thresholds, after: Thresholds) => boolean
}

/** As much of a SendChannel as a decision needs. */
export type FlushedChannel = Pick<SendChannel, 'channelId' | 'counter' | 'setWaterMarks'>

/** The flush control of one migration: every channel's thresholds. */
export interface FlushControl {
  /** No channel waits for the outcome of a decision: none needs to be asked soon. */
  readonly settled: boolean
  /** What the channels are opened with. */
  marks(): readonly ChannelMarks[]
  /** An extent of the channel is done. */
  extentDone(channel: FlushedChannel): void
  /** The channel cannot do zero-copy at all: there is nothing to find out. */
  channelIsPlain(channelId: number): void
  report(channelId: number): FlushReport
}

class PolicyFlush<Thresholds extends ChannelMarks> implements FlushControl {
  readonly #reading: Reading<Thresholds>
  /** Per channel. */
  readonly #thresholds: Thresholds[]
  /** Bytes one channel may pin. */
  readonly #budgetBytes: number
  /** Channels that still find out what their path can do. */
  readonly #unsettled = new Set<number>()

  constructor(options: {
    reading: Reading<Thresholds>
    thresholds: readonly Thresholds[]
    budgetBytes: number
  }) {
    this.#reading = options.reading
    this.#thresholds = [...options.thresholds]
    this.#budgetBytes = options.budgetBytes
    for (const [channelId, thresholds] of this.#thresholds.entries()) {
      if (this.#reading.mode(thresholds) === 'probing') this.#unsettled.add(channelId)
    }
  }

  get settled(): boolean {
    return this.#unsettled.size === 0
  }

  marks(): readonly ChannelMarks[] {
    return this.#thresholds.map(({ highWaterBytes, lowWaterBytes, zeroCopyUntilBytes }) => {
      return { highWaterBytes, lowWaterBytes, zeroCopyUntilBytes }
    })
  }

  extentDone(channel: FlushedChannel): void {
    const { channelId } = channel
    const before = this.#thresholds[channelId]
    if (before === undefined) return
    const { policy, mode, reason, decided } = this.#reading
    const after = policy(snapshotOf(channel), before, this.#budgetBytes)
    if (after === before) return
    this.#thresholds[channelId] = after
    if (marksDiffer(before, after)) channel.setWaterMarks(after)
    if (!decided(before, after)) {
      this.#unsettled.delete(channelId)
      return
    }
    if (mode(after) === 'off') this.#unsettled.delete(channelId)
    else this.#unsettled.add(channelId)
    trace('multifd:flush', () => ({
      channelId,
      highWaterBytes: after.highWaterBytes,
      lowWaterBytes: after.lowWaterBytes,
      zeroCopyUntilBytes: after.zeroCopyUntilBytes,
      mode: mode(after),
      reason: reason(after),
    }))
  }

  channelIsPlain(channelId: number): void {
    this.#unsettled.delete(channelId)
  }

  report(channelId: number): FlushReport {
    const thresholds = this.#thresholds[channelId]
    if (thresholds === undefined) throw new RangeError(`there is no channel ${channelId}`)
    const { highWaterBytes, lowWaterBytes } = thresholds
    return {
      highWaterBytes,
      lowWaterBytes,
      zeroCopyMode: this.#reading.mode(thresholds),
      flushReason: this.#reading.reason(thresholds),
    }
  }
}

/** Marks that follow what the kernel answers, channel by channel. */
export function adaptiveFlush(channels: number, budgetBytes: number): FlushControl {
  const reading: Reading<AdaptiveThresholds> = {
    policy: adaptivePolicy,
    mode: ({ mode }) => mode,
    reason: ({ reason }) => reason,
    decided: decidedAnew,
  }
  const thresholds = Array.from({ length: channels }, () => startThresholds(budgetBytes))
  return new PolicyFlush({ reading, thresholds, budgetBytes })
}

/** Marks that stay as they were given, within the budget. */
export function fixedFlush(given: readonly FlushThresholds[], budgetBytes: number): FlushControl {
  const reading: Reading<ChannelMarks> = {
    policy: fixedPolicy,
    mode: () => 'fixed',
    reason: () => "asked for by zeroCopy: 'on'",
    decided: (before, after) => after !== before,
  }
  const thresholds = given.map((marks) => {
    return clampToBudget({ ...marks, zeroCopyUntilBytes: Number.POSITIVE_INFINITY }, budgetBytes)
  })
  return new PolicyFlush({ reading, thresholds, budgetBytes })
}

/** Pages go by reference and are never told to be released: there is nothing to bound. */
export function splicedFlush(channels: number): FlushControl {
  return constantFlush(channels, 'fixed', 'spliced pages pin no locked memory')
}

/** No zero-copy: nothing is ever unreleased. */
export function plainFlush(channels: number, why: string): FlushControl {
  return constantFlush(channels, 'off', why)
}

function constantFlush(channels: number, mode: 'fixed' | 'off', why: string): FlushControl {
  const none = { highWaterBytes: 0, lowWaterBytes: 0, zeroCopyUntilBytes: 0 }
  const reading: Reading<ChannelMarks> = {
    policy: (_snapshot, thresholds) => thresholds,
    mode: () => mode,
    reason: () => why,
    decided: () => false,
  }
  const thresholds = Array.from({ length: channels }, () => none)
  return new PolicyFlush({ reading, thresholds, budgetBytes: 0 })
}

/** Taken cell by cell: the channel thread writes them meanwhile, a decision must see one value. */
function snapshotOf(channel: FlushedChannel): AdaptiveSnapshot {
  const refusedByMemlock = channel.counter('refusedByMemlock')
  const refusedByOptmem = channel.counter('refusedByOptmem')
  return {
    channelId: channel.channelId,
    sentBytes: channel.counter('sentBytes'),
    unreleasedBytes: channel.counter('unreleasedBytes'),
    unreleasedHighBytes: channel.counter('unreleasedHighBytes'),
    unreleasedRecentHighBytes: channel.counter('unreleasedRecentHighBytes'),
    zeroCopyTriedBytes: channel.counter('zeroCopyTriedBytes'),
    zeroCopyBytes: channel.counter('zeroCopyBytes'),
    copiedBytes: channel.counter('copiedBytes'),
    waitsAtHighWater: channel.counter('waitsAtHighWater'),
    dryWaits: channel.counter('dryWaits'),
    queuedWaits: channel.counter('queuedWaits'),
    refusals: refusedByMemlock + refusedByOptmem,
    refusedByMemlock,
    refusedByOptmem,
  }
}
