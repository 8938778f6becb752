// The sending end of `multifd bench`: fills a made-up guest, migrates it to a server again and
// again, with 1, 2, 4 and 8 channels for a moment each, and then with the best number for longer.
// Migrations are the library's own, with everything as by default; a slow path cuts them short.

import { randomFillSync } from 'node:crypto'
import { freemem } from 'node:os'
import { formatUri, parseUri, resolveUri } from '../../channel/uri.ts'
import { GuestMemory } from '../../guest/guest-memory.ts'
import { MultifdError } from '../../kit/errors.ts'
import type { MigrationProgress } from '../../migrate/progress.ts'
import { readEnvironment } from '../../report/environment.ts'
import { type Migration, MigrationSource } from '../../source.ts'
import { ControlConnection, numberOf } from './control.ts'
import {
  type BenchResult,
  bestChannels,
  estimates,
  type Passage,
  type Trial,
  trialOf,
} from './figures.ts'
import { BLOCK_NAME, cpuSecondsSince, GREETING, PAGE_BYTES } from './terms.ts'

const CHANNELS = [1, 2, 4, 8]
/** Unless told otherwise; never more than a quarter of the memory that is free. */
const GUEST_BYTES = 2 ** 30
const TILE_BYTES = 32 * 2 ** 20
/** Of the whole time, for each number of channels and for the measurement after them. */
const SEARCH_SHARE = 1 / 10
const MEASURE_SHARE = 6 / 10
/** Preparing, and what the search takes longer on a busy machine, may cost so much beside it. */
const OVERTIME_SECONDS = 6
/** A migration may take so long even where less time is left: what is shorter says nothing. */
const PASSAGE_MIN_MS = 1500

type Doing = 'trying' | 'measuring'
type Show = (bytesPerSecond: number) => void

export interface ClientOptions {
  readonly seconds: number
  /** Undefined: by what is free. */
  readonly guestBytes: number | undefined
  readonly allowPlaintext: boolean
  readonly signal: AbortSignal
  readonly progress: (doing: Doing, channels: number, speed: number) => void
  readonly tried: (trial: Trial) => void
}

export async function measure(uri: string, options: ClientOptions): Promise<BenchResult> {
  const parsed = parseUri(uri)
  if (parsed.kind !== 'tcp') throw new TypeError(`multifd bench measures TCP, got ${uri}`)
  const endpoint = await resolveUri(parsed, options)
  const startedMs = performance.now()
  using control = await ControlConnection.connect(endpoint, options.signal)
  const guestBytes = await agreeOnSize(control, options)
  await using memory = GuestMemory.allocate(BLOCK_NAME, guestBytes)
  control.say({ prepare: guestBytes })
  fill(memory.view(BLOCK_NAME))
  refuseError(await control.next(options.signal), control)
  const bench = new Bench(memory, control, options)
  const trials: Trial[] = []
  for (const channels of CHANNELS) {
    const trial = await bench.try('trying', channels, options.seconds * 1e3 * SEARCH_SHARE)
    options.tried(trial)
    trials.push(trial)
  }
  const best = bestChannels(trials)
  const leftMs = (options.seconds + OVERTIME_SECONDS) * 1e3 - (performance.now() - startedMs)
  const limitMs = Math.min(options.seconds * 1e3 * MEASURE_SHARE, leftMs)
  const measured = await bench.try('measuring', best, limitMs)
  control.say({ end: true })
  return {
    status: 'completed',
    uri: formatUri(endpoint),
    guestBytes,
    ...measured,
    trials,
    estimates: estimates(measured.throughputBytesPerSecond),
    dirtyBytesPerSecondMax: measured.throughputBytesPerSecond,
    environment: readEnvironment(`TCP to ${control.peer}`),
  }
}

async function agreeOnSize(control: ControlConnection, options: ClientOptions): Promise<number> {
  const greeting = await control.next(options.signal)
  if (greeting.multifdBench !== GREETING.multifdBench) {
    const sentence = `${control.peer} is no multifd bench server of this version`
    throw new MultifdError('ERR_MULTIFD_HANDSHAKE', sentence)
  }
  refuseError(greeting, control)
  const most = numberOf(greeting, 'guestBytesMax', Number.MAX_SAFE_INTEGER)
  const { guestBytes = Math.min(GUEST_BYTES, freemem() / 4, most) } = options
  if (guestBytes <= most) return Math.max(1, Math.floor(guestBytes / PAGE_BYTES)) * PAGE_BYTES
  const mebibytes = Math.floor(most / 2 ** 20)
  throw new MultifdError(
    'ERR_MULTIFD_LIMIT',
    `${control.peer} has room for a guest of ${mebibytes} MiB: name a smaller --memory`,
  )
}

/** Incompressible; that it repeats after 32 MiB is of no use to anybody. */
function fill(view: Uint8Array): void {
  const tile = randomFillSync(new Uint8Array(Math.min(TILE_BYTES, view.length)))
  for (let at = 0; at < view.length; at += tile.length) {
    view.set(tile.subarray(0, view.length - at), at)
  }
}

function refuseError(line: { readonly error?: unknown }, control: ControlConnection): void {
  if (line.error === undefined) return
  throw new MultifdError('ERR_MULTIFD_STATE', `${control.peer} says: ${line.error}`)
}

class Bench {
  readonly #memory: GuestMemory
  readonly #control: ControlConnection
  readonly #options: ClientOptions

  constructor(memory: GuestMemory, control: ControlConnection, options: ClientOptions) {
    this.#memory = memory
    this.#control = control
    this.#options = options
  }

  /** Migrations one after the other, as many as fit. */
  async try(doing: Doing, channels: number, limitMs: number): Promise<Trial> {
    const progress = (speed: number) => this.#options.progress(doing, channels, speed)
    const source = new MigrationSource({
      memory: this.#memory,
      vmm: { stop: () => {}, resume: () => {} },
      multifdChannels: channels,
      allowPlaintext: this.#options.allowPlaintext,
    })
    const passages: Passage[] = []
    const startMs = performance.now()
    let leftMs = limitMs
    let lastMs = 0
    while (passages.length === 0 || leftMs > lastMs) {
      const beganMs = performance.now()
      passages.push(await this.#migrate(source, progress, Math.max(leftMs, PASSAGE_MIN_MS)))
      lastMs = performance.now() - beganMs
      leftMs = limitMs - (performance.now() - startMs)
    }
    return trialOf(channels, passages)
  }

  async #migrate(source: MigrationSource, progress: Show, limitMs: number): Promise<Passage> {
    const { signal } = this.#options
    this.#control.say({ guestBytes: this.#memory.totalBytes })
    const answer = await this.#control.next(signal)
    refuseError(answer, this.#control)
    const stop = new AbortController()
    const interrupt = () => stop.abort(signal.reason)
    const timer = setTimeout(interrupt, limitMs)
    signal.addEventListener('abort', interrupt)
    const before = process.cpuUsage()
    try {
      const migration = source.migrate(String(answer.uri), { signal: stop.signal })
      const carried = await this.#follow(migration, progress, stop.signal).catch(async (error) =>
        Promise.reject(await this.#explain(error)),
      )
      const sourceCpuSeconds = cpuSecondsSince(before)
      signal.throwIfAborted()
      const there = await this.#control.next(signal)
      refuseError(there, this.#control)
      const destinationCpuSeconds = numberOf(there, 'cpuSeconds', Number.MAX_SAFE_INTEGER)
      return { ...carried, sourceCpuSeconds, destinationCpuSeconds }
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', interrupt)
    }
  }

  /** Why a migration failed, by the other end's words where it has some. */
  async #explain(error: unknown): Promise<unknown> {
    const { signal } = this.#options
    if (signal.aborted) return error
    const line = await this.#control.next(signal).catch(() => undefined)
    const reason = line?.error ?? line?.failure ?? undefined
    if (reason === undefined) return error
    const sentence = `${this.#control.peer} says: ${reason}`
    return new MultifdError('ERR_MULTIFD_STATE', sentence, { cause: error })
  }

  /** To its end, or to where it was cut short. */
  async #follow(migration: Migration, show: Show, cut: AbortSignal) {
    let first: MigrationProgress | undefined
    let last: MigrationProgress | undefined
    try {
      for await (const progress of migration) {
        show(progress.bytesPerSecond)
        if (progress.status !== 'active') continue
        first ??= progress
        last = progress
      }
      const result = await migration.result
      const { transferredBytes: bytes, throughputBytesPerSecond } = result
      const seconds = bytes / throughputBytesPerSecond
      return { bytes, seconds, sentBytes: bytes, channels: result.channels }
    } catch (error) {
      this.#options.signal.throwIfAborted()
      if (!cut.aborted) throw error
    }
    const bytes = (last?.transferredBytes ?? 0) - (first?.transferredBytes ?? 0)
    if (first === undefined || last === undefined || bytes === 0) {
      throw new MultifdError(
        'ERR_MULTIFD_TIMEOUT',
        `${this.#control.peer} took next to nothing in time`,
      )
    }
    const seconds = (last.elapsedMs - first.elapsedMs) / 1e3
    return { bytes, seconds, sentBytes: last.transferredBytes, channels: last.channels }
  }
}
