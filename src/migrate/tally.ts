// What a source tells about a migration: progress events, the result, and QEMU's query-migrate. It
// adds up what all connections carried, and changes nothing.

import type { TrackerChoice } from '../guest/dirty-tracker.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { native } from '../kit/native.ts'
import type { EngineChoice } from '../schedule/engine-choice.ts'
import { engineOf } from './channel-setup.ts'
import type { Convergence } from './convergence.ts'
import type { Decision } from './decision.ts'
import type { DevicePasses } from './passes.ts'
import type { ChannelProgress, MigrationProgress, MigrationResult } from './progress.ts'
import { type QueryMigrate, queryMigrate } from './query.ts'
import type { RamRounds } from './ram-rounds.ts'
import type { SourceLink } from './source-link.ts'
import type { SourceSettings } from './source-options.ts'
import type { MigrationStatus } from './status.ts'
import type { Switchover } from './switchover.ts'

/** What there is once a migration was prepared. */
export interface TallyParts {
  choice: EngineChoice
  tracker: TrackerChoice
  rounds: RamRounds
  passes: DevicePasses
  convergence: Convergence
  switchover: Switchover
  /** The latest one. */
  decision: () => Decision | undefined
}

/** A sum over connections. */
interface Carried {
  multifdBytes: number
  mainBytes: number
  normalBytes: number
  zeroPages: number
}

/** What a rate is measured from. */
interface Sample {
  elapsedMs: number
  transferredBytes: number
  pages: number
  channels: readonly ChannelProgress[]
}

const NOTHING: Sample = { elapsedMs: 0, transferredBytes: 0, pages: 0, channels: [] }

export class Tally {
  readonly #settings: SourceSettings
  readonly #status: () => MigrationStatus
  readonly #startedMs = performance.now()
  readonly #jsCpuBefore = native().threadCpuNanoseconds()
  #connectMs = 0
  #setupTimeMs = 0
  #endedMs: number | undefined
  #parts: TallyParts | undefined
  #link: SourceLink | undefined
  readonly #before: Carried = { multifdBytes: 0, mainBytes: 0, normalBytes: 0, zeroPages: 0 }
  #sample = NOTHING
  #rates = { bytesPerSecond: 0, pagesPerSecond: 0 }

  constructor(settings: SourceSettings, status: () => MigrationStatus) {
    this.#settings = settings
    this.#status = status
  }

  prepared(parts: TallyParts): void {
    this.#parts = parts
    this.#connectMs = performance.now()
  }

  /** A connection takes the place of the one before, whose bytes still count. */
  linked(link: SourceLink): void {
    if (this.#link !== undefined) add(this.#before, this.#link)
    this.#link = link
  }

  setUp(): void {
    this.#setupTimeMs = this.#elapsedMs
  }

  ended(): void {
    this.#endedMs ??= performance.now()
  }

  /** Rates are those since the last call. */
  progress(): MigrationProgress {
    const parts = this.#parts
    const before = this.#sample
    const { multifdBytes, normalBytes } = this.#carried
    const transferredBytes = this.transferredBytes
    const [elapsedMs, pages] = [this.#elapsedMs, this.#pages]
    const seconds = Math.max((elapsedMs - before.elapsedMs) / 1000, 1e-3)
    const channels = (this.#link?.channelReports ?? []).map((report) => {
      // A channel of another connection begins anew.
      const last = before.channels[report.channelId]?.sentBytes ?? 0
      const sentBytes = report.sentBytes - (last > report.sentBytes ? 0 : last)
      return { ...report, bytesPerSecond: sentBytes / seconds }
    })
    this.#rates = {
      bytesPerSecond: (transferredBytes - before.transferredBytes) / seconds,
      pagesPerSecond: (pages - before.pages) / seconds,
    }
    this.#sample = { elapsedMs, transferredBytes, pages, channels }
    const { reason, advice } = parts?.decision() ?? {}
    return {
      status: this.#status(),
      round: parts?.rounds.passes ?? 0,
      dirtySyncCount: parts?.rounds.dirtySyncCount ?? 0,
      remainingBytes: this.#remainingBytes,
      dirtyBytesPerSecond: parts?.convergence.dirtyBytesPerSecond ?? 0,
      transferredBytes,
      multifdBytes,
      normalBytes,
      compression: this.#settings.compression,
      bytesPerSecond: this.#rates.bytesPerSecond,
      expectedDowntimeMs: this.#expectedDowntimeMs,
      elapsedMs,
      throttlePercent: parts?.convergence.throttlePercent ?? 0,
      ...(reason === undefined ? {} : { decision: reason }),
      ...(advice === undefined ? {} : { advice }),
      devices: parts?.passes.progress ?? [],
      channels,
    }
  }

  result(): MigrationResult {
    // What is asked after the end must give the same times.
    this.#endedMs = performance.now()
    const nowMs = this.#endedMs
    const { multifdBytes, normalBytes, zeroPages } = this.#carried
    const transferredBytes = this.transferredBytes
    const { choice, rounds, switchover, tracker } = this.#parts ?? {}
    return {
      status: 'completed',
      rounds: rounds?.passes ?? 0,
      dirtySyncCount: rounds?.dirtySyncCount ?? 0,
      transferredBytes,
      multifdBytes,
      normalBytes,
      normalPages: normalBytes / PAGE_SIZE_BYTES,
      zeroPages,
      totalTimeMs: nowMs - this.#startedMs,
      setupTimeMs: this.#setupTimeMs,
      downtimeMs: nowMs - (switchover?.stoppedMs ?? nowMs),
      downtimeParts: switchover?.downtime ?? NO_DOWNTIME,
      throughputBytesPerSecond: (transferredBytes / (nowMs - this.#connectMs)) * 1000,
      ...engineOf(this.#link?.channels ?? [], choice),
      zeroCopy: this.#settings.zeroCopy,
      compression: this.#settings.compression,
      dirtyTracker: tracker?.tracker ?? '',
      dirtyTrackerReason: tracker?.reason ?? '',
      jsThreadCpuNanoseconds: native().threadCpuNanoseconds() - this.#jsCpuBefore,
      channels: this.#link?.channelReports ?? [],
    }
  }

  query(error: Error | undefined): QueryMigrate {
    const { convergence, rounds, switchover } = this.#parts ?? {}
    const { multifdBytes, normalBytes, zeroPages } = this.#carried
    const [transferredBytes, totalTimeMs] = [this.transferredBytes, this.#elapsedMs]
    const stoppedMs = switchover?.stoppedMs
    const precopyBytes = switchover?.bytesBefore ?? transferredBytes
    const completed = this.#status() === 'completed'
    return queryMigrate({
      status: this.#status(),
      totalTimeMs,
      setupTimeMs: this.#setupTimeMs,
      expectedDowntimeMs: this.#expectedDowntimeMs,
      downtimeMs: stoppedMs === undefined ? 0 : (this.#endedMs ?? performance.now()) - stoppedMs,
      totalBytes: this.#settings.memory.totalBytes,
      remainingBytes: this.#remainingBytes,
      transferredBytes,
      multifdBytes,
      precopyBytes,
      downtimeBytes: transferredBytes - precopyBytes,
      zeroPages,
      normalPages: normalBytes / PAGE_SIZE_BYTES,
      dirtyBytesPerSecond: convergence?.dirtyBytesPerSecond ?? 0,
      ...(completed
        ? { bytesPerSecond: (transferredBytes / totalTimeMs) * 1000, pagesPerSecond: 0 }
        : this.#rates),
      dirtySyncCount: rounds?.dirtySyncCount ?? 0,
      dirtySyncMissedZeroCopy: rounds?.missedZeroCopy ?? 0,
      throttlePercent: convergence?.throttlePercent ?? 0,
      ...(error === undefined ? {} : { error: error.message }),
    })
  }

  /** Everything on the wire, main channel included. */
  get transferredBytes(): number {
    const { multifdBytes, mainBytes } = this.#carried
    return multifdBytes + mainBytes
  }

  get #elapsedMs(): number {
    return (this.#endedMs ?? performance.now()) - this.#startedMs
  }
  get #carried(): Carried {
    const sum = { ...this.#before }
    if (this.#link !== undefined) add(sum, this.#link)
    return sum
  }
  get #pages(): number {
    const { normalBytes, zeroPages } = this.#carried
    return normalBytes / PAGE_SIZE_BYTES + zeroPages
  }
  get #remainingBytes(): number {
    return (this.#link?.remainingPages ?? 0) * PAGE_SIZE_BYTES
  }
  get #expectedDowntimeMs(): number {
    return (
      this.#parts?.convergence.expectedDowntimeMs(this.#remainingBytes) ?? Number.POSITIVE_INFINITY
    )
  }
}

const NO_DOWNTIME = { stopMs: 0, saveMs: 0, collectMs: 0, roundMs: 0, loadMs: 0, resumeMs: 0 }

function add(sum: Carried, link: SourceLink): void {
  sum.multifdBytes += link.multifdBytes
  sum.mainBytes += link.mainBytes
  sum.normalBytes += link.normalBytes
  sum.zeroPages += link.zeroPages
}
