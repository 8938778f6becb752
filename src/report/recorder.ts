// Listens to one migration of this program and keeps what a report of it needs: the progress it is
// handed, and, from the library's tracing channels, when rounds began and what was decided. Those
// are the program's: two migrations at once would be recorded as one. It writes nothing.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import type { TraceEvents } from '../kit/trace.ts'
import type { MigrationProgress } from '../migrate/progress.ts'
import type { RelayProgress } from '../relay/progress.ts'
import type { ReceptionProgress } from '../snapshot/reception.ts'
import type { SendProgress } from '../snapshot/send-progress.ts'
import { type Environment, readEnvironment } from './environment.ts'
import type {
  Decision,
  DowntimeParts,
  MigrationRecord,
  Outcome,
  RoundRecord,
  Sample,
} from './migration-record.ts'
import { SampleList } from './sample-list.ts'
import { RateSampler, sampleOfMigration, sampleOfReception } from './samples.ts'

/** More rounds than this are no convergence: the first and the last ones tell it. */
const ROUNDS_KEPT_EACH = 30
/** The same for decisions. */
const DECISIONS_MAX = 120

/** What an event of a source tells, or a later version of it. */
type SourceEvent = MigrationProgress & {
  /** What was decided at the end of the round before this one, and why. */
  readonly decision?: string | undefined
}

export class MigrationRecorder implements Disposable {
  readonly #title: string
  readonly #lead: string
  readonly #environment: Environment
  readonly #startedAt = new Date().toISOString()
  readonly #samples = new SampleList()
  readonly #sampler = new RateSampler()
  readonly #decisions: Decision[] = []
  readonly #firstRounds: RoundRecord[] = []
  #lastRounds: RoundRecord[] = []
  #roundsLeftOut = 0
  #status = ''
  #decision: string | undefined
  #startedMs = performance.now()
  #stoppedMs: number | undefined
  #channels: readonly object[] = []
  readonly #subscriptions: readonly [string, (event: unknown) => void][] = [
    ['multifd:state', (event) => this.#state(event as TraceEvents['multifd:state'])],
    ['multifd:round', (event) => this.#round(event as TraceEvents['multifd:round'])],
    ['multifd:sync', (event) => this.#sync(event as TraceEvents['multifd:sync'])],
    ['multifd:flush', (event) => this.#flush(event as TraceEvents['multifd:flush'])],
  ]

  /** Listens from now on, until it is disposed of. `over`: what the bytes travel over. */
  constructor({ title, lead, over }: { title: string; lead: string; over: string }) {
    this.#title = title
    this.#lead = lead
    this.#environment = readEnvironment(over)
    for (const [name, listener] of this.#subscriptions) subscribe(name, listener)
  }

  [Symbol.dispose](): void {
    for (const [name, listener] of this.#subscriptions) unsubscribe(name, listener)
  }

  migrating(event: SourceEvent): void {
    this.#sample(sampleOfMigration(event))
    if (event.channels.length > 0) this.#channels = event.channels
    if (event.decision === undefined || event.decision === this.#decision) return
    this.#decision = event.decision
    this.#decide(event.elapsedMs, `round ${event.round}: ${event.decision}`)
  }

  receiving(event: ReceptionProgress): void {
    this.#sample(sampleOfReception(event))
  }

  sending(event: SendProgress): void {
    this.#sample(this.#sampler.sending(event))
  }

  relaying(event: RelayProgress): void {
    this.#sample(this.#sampler.relaying(event))
  }

  /** Everything so far, with what came of it. `channels`: their last counters, where known. */
  record(
    outcome: Outcome,
    {
      downtimeParts,
      channels,
    }: { downtimeParts?: DowntimeParts | undefined; channels?: readonly object[] } = {},
  ): MigrationRecord {
    return {
      title: this.#title,
      lead: this.#lead,
      startedAt: this.#startedAt,
      environment: this.#environment,
      samples: this.#samples.samples,
      rounds: [...this.#firstRounds, ...this.#lastRounds],
      roundsLeftOut: this.#roundsLeftOut,
      decisions: this.#decisions,
      outcome,
      ...(this.#stoppedMs === undefined ? {} : { stoppedMs: this.#stoppedMs }),
      ...(downtimeParts === undefined ? {} : { downtimeParts }),
      channels: channels ?? this.#channels,
    }
  }

  /** What ends a migration that did not complete. */
  failed(error: unknown, status: 'failed' | 'cancelled' | 'unknown'): MigrationRecord {
    const last = this.#samples.samples.at(-1)
    return this.record({
      status,
      reason: error instanceof Error ? error.message : String(error),
      totalTimeMs: this.#elapsedMs(),
      ...(last === undefined ? {} : { transferredBytes: last.transferredBytes }),
    })
  }

  #sample(sample: Sample): void {
    this.#samples.add(sample)
    this.#enter(sample.elapsedMs, sample.status)
  }

  #state({ side, to }: TraceEvents['multifd:state']): void {
    if (side !== 'source') return
    // The clock of its progress events begins here.
    if (to === 'setup') this.#startedMs = performance.now()
    if (to === 'device') this.#stoppedMs = this.#elapsedMs()
    this.#enter(this.#elapsedMs(), to)
  }

  #enter(elapsedMs: number, status: string): void {
    if (status === this.#status) return
    this.#status = status
    this.#decide(elapsedMs, `status: ${status}`)
  }

  #round({ round, dirtyPages, final }: TraceEvents['multifd:round']): void {
    const beganMs = this.#elapsedMs()
    const dirtyBytes = dirtyPages * PAGE_SIZE_BYTES
    const before = this.#latestRound()
    const seconds = before === undefined ? 0 : (beganMs - before.beganMs) / 1000
    const written = final || seconds === 0 ? {} : { dirtyBytesPerSecond: dirtyBytes / seconds }
    const began = { round, dirtyBytes, beganMs, final, ...written }
    if (this.#firstRounds.length < ROUNDS_KEPT_EACH) {
      this.#firstRounds.push(began)
      return
    }
    this.#lastRounds.push(began)
    if (this.#lastRounds.length <= ROUNDS_KEPT_EACH) return
    this.#lastRounds = this.#lastRounds.slice(1)
    this.#roundsLeftOut += 1
  }

  #sync({ side, sync }: TraceEvents['multifd:sync']): void {
    const rounds = this.#lastRounds.length > 0 ? this.#lastRounds : this.#firstRounds
    const ended = rounds.at(-1)
    if (side !== 'source' || ended === undefined || sync !== ended.round + 1) return
    rounds[rounds.length - 1] = { ...ended, tookMs: this.#elapsedMs() - ended.beganMs }
  }

  #flush({ channelId, mode, reason }: TraceEvents['multifd:flush']): void {
    this.#decide(this.#elapsedMs(), `channel ${channelId}: zero-copy ${mode} (${reason})`)
  }

  #decide(elapsedMs: number, text: string): void {
    // The latest ones are what the end follows from.
    if (this.#decisions.length === DECISIONS_MAX) this.#decisions.splice(DECISIONS_MAX / 2, 1)
    this.#decisions.push({ elapsedMs, text })
  }

  #latestRound(): RoundRecord | undefined {
    return this.#lastRounds.at(-1) ?? this.#firstRounds.at(-1)
  }

  #elapsedMs(): number {
    return performance.now() - this.#startedMs
  }
}
