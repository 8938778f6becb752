// One outgoing migration with everything that it opens: the book of its RAM, the connections, one
// after the other, and what is told about it. The place that wires the rooms of a source together,
// and takes all of it down again.

import { randomBytes } from 'node:crypto'
import { DirtyLog, openRamState, type TrackerChoice } from '../guest/dirty-tracker.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { checked, type NativeEndpoint, type NativeSendGroup, native } from '../kit/native.ts'
import { refuseUnknown } from '../kit/options.ts'
import { BandwidthAccounts } from '../schedule/bandwidth-accounts.ts'
import type { EngineChoice } from '../schedule/engine-choice.ts'
import { RateLimiter } from '../schedule/rate-limiter.ts'
import { prepareEngine } from './channel-setup.ts'
import { Convergence } from './convergence.ts'
import {
  CONVERGENCE_NAMES,
  type ConvergenceSettings,
  checkConvergence,
} from './convergence-options.ts'
import type { Decision } from './decision.ts'
import { Outgoing } from './outgoing.ts'
import type { Owner } from './ownership.ts'
import { DevicePasses } from './passes.ts'
import type { MigrationProgress, MigrationResult } from './progress.ts'
import { ProgressStream } from './progress-stream.ts'
import type { QueryMigrate } from './query.ts'
import { RamRounds } from './ram-rounds.ts'
import { SourceLink, type SourceLinkParts } from './source-link.ts'
import { checkBandwidth, type SourceSettings } from './source-options.ts'
import { type MigrationStatus, StatusMachine } from './status.ts'
import { Switchover } from './switchover.ts'
import { Tally } from './tally.ts'
import { asMultifdError, cancelled, FirstError } from './teardown.ts'

/** Progress events while a migration runs. */
const PROGRESS_INTERVAL_MS = 100

/** What may be changed while a migration runs, under the names of the options. */
export type MigrationParameters = Partial<ConvergenceSettings> & {
  maxBandwidthBytesPerSecond?: number
}

/** A running migration: iterate it for progress, await `result` for the end. */
export interface Migration extends AsyncIterable<MigrationProgress> {
  /** Rejects with a MultifdError; the guest then runs on here, unless `status` is `unknown`. */
  readonly result: Promise<MigrationResult>
  readonly status: MigrationStatus
  /** As QEMU's query-migrate answers. */
  query(): QueryMigrate
  /**
   * As QEMU's migrate-set-parameters: in force at once, for the decisions and the bytes to come.
   * @throws TypeError or RangeError naming the parameter.
   */
  setParameters(parameters: MigrationParameters): void
  /** Sends nothing more but what is on its way; the guest runs on. Without effect at the end. */
  pause(): void
  /** Goes on after `pause`, and with the switchover that `pauseBeforeSwitchover` held up. */
  continue(): void
  /** As the signal: the guest runs on here. Without effect once it is given up. */
  cancel(): void
  /**
   * In the status `unknown`: whose the guest is, after somebody has looked (docs/ownership.md).
   * `source` resumes it here; `destination` leaves it there.
   * @throws MultifdError ERR_MULTIFD_STATE in every other status.
   */
  decide(owner: Owner): Promise<void>
}

/** One migration, with everything that it opens. */
export class OutgoingSession implements Migration {
  readonly #settings: SourceSettings
  /** Called when everything is given back, before `result` settles: the next may start at once. */
  readonly #ended: () => void
  readonly #status = new StatusMachine('source')
  readonly #first = new FirstError('source')
  readonly #progress = new ProgressStream()
  readonly #tally: Tally
  readonly #limiter: RateLimiter
  readonly #accounts: BandwidthAccounts
  readonly #convergence: Convergence
  readonly #switchover: Switchover
  #group: NativeSendGroup | undefined
  #tracker: TrackerChoice | undefined
  /** Native work on the group, which must be over before the group is closed. */
  #preparing: Promise<EngineChoice> | undefined
  #link: SourceLink | undefined
  #outgoing: Outgoing | undefined
  /** It may be asked for before there is anything to pause. */
  #pauseAsked = false
  #error: MultifdError | undefined
  #unfollow: () => void = () => {}
  readonly #result: Deferred<MigrationResult> = deferred()

  constructor(settings: SourceSettings, ended: () => void) {
    this.#settings = settings
    this.#ended = ended
    this.#tally = new Tally(settings, () => this.#status.status)
    const bytesPerSecond = settings.maxBandwidthBytesPerSecond
    this.#limiter = new RateLimiter({ bytesPerSecond, nowMs: performance.now() })
    this.#accounts = new BandwidthAccounts(this.#limiter)
    this.#convergence = new Convergence(settings.convergence)
    this.#switchover = new Switchover({
      settings,
      status: this.#status,
      account: this.#accounts.open(),
      transferredBytes: () => this.#tally.transferredBytes,
      beforeCommit: () => this.#unfollow(),
    })
  }

  get result(): Promise<MigrationResult> {
    return this.#result.promise
  }
  get status(): MigrationStatus {
    return this.#status.status
  }
  [Symbol.asyncIterator](): AsyncIterator<MigrationProgress, void, void> {
    return this.#progress[Symbol.asyncIterator]()
  }

  query(): QueryMigrate {
    return this.#tally.query(this.#error)
  }

  setParameters(parameters: MigrationParameters): void {
    refuseUnknown('setParameters', parameters, [...CONVERGENCE_NAMES, 'maxBandwidthBytesPerSecond'])
    const { maxBandwidthBytesPerSecond: limit, ...rest } = parameters
    const canThrottle = this.#settings.vmm.throttle !== undefined
    const convergence = checkConvergence({ ...this.#convergence.settings, ...rest }, canThrottle)
    if (limit !== undefined) this.#limiter.setLimit(checkBandwidth(limit), performance.now())
    this.#convergence.settings = convergence
    if (limit !== undefined) this.#outgoing?.limitChanged()
  }

  pause(): void {
    this.#pauseAsked = true
    this.#outgoing?.pause()
  }
  continue(): void {
    this.#pauseAsked = false
    this.#outgoing?.continue()
  }
  cancel(): void {
    if (this.#switchover.ownership.state === 'handed-over') return
    this.#first.set(cancelled())
  }

  async decide(owner: Owner): Promise<void> {
    this.#switchover.ownership.decide(owner)
    await this.#result.promise.catch(() => {})
    this.#status.enter(owner === 'source' ? 'failed' : 'completed')
    await this.#switchover.resumeGuest()
  }

  start(resolve: () => Promise<NativeEndpoint>, signal: AbortSignal | undefined): void {
    this.#unfollow = this.#first.follow(signal)
    this.#run(resolve).then(this.#result.resolve, this.#result.reject)
    // Behind the last event, which is pushed before the result settles.
    const end = (): void => this.#progress.end(this.#result.promise)
    this.#result.promise.then(end, end)
  }

  async #run(resolve: () => Promise<NativeEndpoint>): Promise<MigrationResult> {
    this.#status.enter('setup')
    this.#first.promise.catch(() => {})
    const timer = setInterval(() => this.#tick(), PROGRESS_INTERVAL_MS)
    try {
      this.#outgoing = await this.#open(await this.#first.unless(resolve()))
      this.#tally.setUp()
      if (this.#pauseAsked) this.#outgoing.pause()
      await this.#outgoing.run()
      const result = this.#tally.result()
      await this.#link?.close()
      return result
    } catch (thrown) {
      this.#error = await this.#failed(asMultifdError(thrown))
      throw this.#error
    } finally {
      clearInterval(timer)
      this.#tally.ended()
      this.#unfollow()
      await this.#release()
      this.#report()
      this.#ended()
    }
  }

  /** What serves the whole migration, and the first connection. */
  async #open(endpoint: NativeEndpoint): Promise<Outgoing> {
    const settings = this.#settings
    const { memory, dirty, devices, reconnectTimeoutMs } = settings
    const tracker = openRamState(memory, dirty)
    this.#tracker = tracker
    const group = checked(native().createSendGroup(tracker.ram), 'preparing channels failed')
    this.#group = group
    this.#preparing = prepareEngine({ settings, endpoint, tracker, group })
    const choice = await this.#first.unless(this.#preparing)
    const resumeToken = reconnectTimeoutMs === 0 ? undefined : randomBytes(16).toString('hex')
    const accounts = this.#accounts
    const linkParts = { settings, endpoint, group, choice, limiter: accounts.open(), resumeToken }
    const openLink = (resuming: boolean): Promise<SourceLink> =>
      this.#openLink({ ...linkParts, migrationFailed: this.#first, resuming })
    const rounds = new RamRounds({ settings, tracker, limiter: this.#limiter })
    const passes = new DevicePasses({
      handlers: devices,
      accounts,
      write: async (handler, part, state) =>
        (await this.#outgoing?.writeState(handler, part, state)) ?? 0,
      now: () => performance.now(),
    })
    const [convergence, switchover] = [this.#convergence, this.#switchover]
    const decision = (): Decision | undefined => this.#outgoing?.decision
    this.#tally.prepared({ choice, tracker, rounds, passes, convergence, switchover, decision })
    const [status, first] = [this.#status, this.#first]
    return new Outgoing(
      {
        ...{ settings, status, first, rounds, passes, convergence, switchover, openLink },
        decided: () => this.#report(),
      },
      await openLink(false),
    )
  }

  async #openLink(parts: SourceLinkParts): Promise<SourceLink> {
    const link = new SourceLink(parts)
    this.#tally.linked(link)
    this.#link = link
    try {
      await link.open()
      return link
    } catch (thrown) {
      await link.destroy()
      throw thrown
    }
  }

  #tick(): void {
    const decision = this.#convergence.overdue(performance.now())
    if (decision !== undefined && this.#switchover.stoppedMs === undefined) {
      this.#first.set(new MultifdError('ERR_MULTIFD_ABORTED', decision.reason))
    }
    this.#report()
  }

  #report(): void {
    if (this.#progress.watched) this.#progress.push(this.#tally.progress())
  }

  /** First the guest, then the wreckage. Returns the error the migration ends with. */
  async #failed(error: MultifdError): Promise<MultifdError> {
    this.#first.set(error) // wakes whoever still waits for a step
    this.#link?.stop()
    let final = error
    try {
      await this.#outgoing?.giveBackGuest()
    } catch (thrown) {
      const failure = asMultifdError(thrown)
      final = new MultifdError(failure.code, `${failure.message}; before that: ${error.message}`, {
        cause: error,
      })
    }
    if (this.#status.over) return final
    if (error.code === 'ERR_MULTIFD_ABORTED') {
      this.#status.enter('cancelling')
      this.#report()
    } else {
      this.#status.enter('failed')
    }
    await this.#link?.cancel()
    return final
  }

  /** Ends what is still there; after an orderly end that is nothing but book-keeping. */
  async #release(): Promise<void> {
    await this.#link?.destroy()
    await this.#preparing?.catch(() => {})
    await this.#group?.unregisterMemory()
    this.#group?.close()
    this.#tracker?.ram.close()
    if (this.#settings.dirty instanceof DirtyLog) this.#settings.dirty.end()
    if (this.#status.status === 'cancelling') this.#status.enter('cancelled')
  }
}
