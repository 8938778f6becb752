// The end of an outgoing migration: stop the guest, save its devices, send what is left, and give
// the guest up once the destination has everything. Whose the guest is at each moment is asked of
// ownership.ts, never decided here.
//
//   stop ─► save devices ─► collect ─► last round ─► devices ─► ready ─► commit ─► taken

import { type Deferred, deferred } from '../kit/deferred.ts'
import type { BandwidthAccount } from '../schedule/bandwidth-accounts.ts'
import { type SavedState, saveDevices } from './device-saver.ts'
import { SourceOwnership } from './ownership.ts'
import { handOverUnconfirmed } from './ownership-advice.ts'
import type { DowntimeParts } from './progress.ts'
import type { RamRounds } from './ram-rounds.ts'
import type { SourceLink } from './source-link.ts'
import type { SourceSettings } from './source-options.ts'
import type { StatusMachine } from './status.ts'
import { asMultifdError } from './teardown.ts'
import { callVmm } from './vmm.ts'

export interface SwitchoverParts {
  settings: SourceSettings
  status: StatusMachine
  /** The devices' share of the limit after the stop. */
  account: BandwidthAccount
  /** Everything on the wire so far. */
  transferredBytes: () => number
  /** The guest is about to be given up: whoever may still cancel must not any more. */
  beforeCommit: () => void
}

export class Switchover {
  readonly ownership = new SourceOwnership('multifd')
  readonly #parts: SwitchoverParts
  /** Settles when a switchover goes on that waits in `pre-switchover`; undefined when none does. */
  #continued: Deferred<void> | undefined
  readonly #downtime: DowntimeParts = {
    ...{ stopMs: 0, collectMs: 0, roundMs: 0, saveMs: 0, loadMs: 0, resumeMs: 0 },
  }
  #markMs = 0
  #stopping: Promise<void> | undefined
  #stoppedMs: number | undefined
  #bytesBefore: number | undefined

  constructor(parts: SwitchoverParts) {
    this.#parts = parts
  }

  /** Monotonic, when the guest had stopped; undefined while it runs. */
  get stoppedMs(): number | undefined {
    return this.#stoppedMs
  }
  get downtime(): DowntimeParts {
    return this.#downtime
  }
  /** What was on the wire when the guest had stopped. */
  get bytesBefore(): number | undefined {
    return this.#bytesBefore
  }

  /** Lets a switchover go on that waits in `pre-switchover`. */
  continue(): void {
    this.#continued?.resolve()
  }

  /** A round was begun, and is the last one. Returns when the destination has the guest. */
  async run(link: SourceLink, rounds: RamRounds): Promise<void> {
    await this.#stop(link)
    const saved = await this.#save(link)
    await this.#lastRound(link, rounds)
    await link.first.unless(link.wire.devices(saved, (bytes) => this.#allowed(link, bytes)))
    await link.first.unless(link.wire.eof(saved))
    await link.first.unless(link.wire.answers.ready)
    this.#took('loadMs')
    await this.#handOver(link)
  }

  /** Once the migration has failed. A guest that was stopped and is ours still runs on here. */
  async resumeGuest(): Promise<void> {
    const stopping = this.#stopping
    if (this.ownership.ended('aborted') !== 'kept' || stopping === undefined) return
    // Stop and resume are never called at the same time. A stop that failed may have stopped it.
    await stopping.catch(() => {})
    await callVmm('resuming the guest', () => this.#parts.settings.vmm.resume())
  }

  async #stop(link: SourceLink): Promise<void> {
    const { settings, status } = this.#parts
    if (!settings.pauseBeforeSwitchover) status.enter('device')
    this.#markMs = performance.now()
    this.ownership.stop()
    this.#stopping = callVmm('stopping the guest', () => settings.vmm.stop())
    await link.first.unless(link.watchdog.during(this.#stopping))
    this.#took('stopMs')
    this.#stoppedMs = this.#markMs
    this.#bytesBefore = this.#parts.transferredBytes()
    await link.first.unless(link.wire.switchoverStart())
    if (!settings.pauseBeforeSwitchover) return
    this.#continued = deferred()
    status.enter('pre-switchover')
    await link.first.unless(link.watchdog.during(this.#continued.promise))
    this.#markMs = performance.now()
    status.enter('device')
  }

  /** Before the last collect: saving a device may write guest memory. */
  async #save(link: SourceLink): Promise<SavedState[]> {
    const { devices } = this.#parts.settings
    const saving = saveDevices(devices, async (piece) => {
      await this.#allowed(link, piece.data.length)
      await link.pieces.submit(piece)
    })
    // Until no call into a device is in hand. A peer that takes no pieces is one that fell silent.
    const saved = await saving
    if (link.first.error !== undefined) throw link.first.error
    this.#took('saveMs')
    return saved
  }

  /** The limit holds for devices after the stop, too, as the prediction of the stop had it. */
  async #allowed(link: SourceLink, bytes: number): Promise<void> {
    const { account } = this.#parts
    for (;;) {
      const waitMs = account.waitMs(performance.now())
      if (waitMs === 0) break
      await link.watchdog.during(link.first.sleep(waitMs))
    }
    account.charge(bytes, performance.now())
  }

  /** Nobody writes guest memory any more: what was written since the round began joins it. */
  async #lastRound(link: SourceLink, rounds: RamRounds): Promise<void> {
    await rounds.extend(link)
    this.#took('collectMs')
    await rounds.send(link, true)
    await link.first.unless(link.wire.ramEnd())
    this.#took('roundMs')
  }

  async #handOver(link: SourceLink): Promise<void> {
    const { beforeCommit, status } = this.#parts
    // No await between this look and the hand-over: what failed before it resumes the guest.
    if (link.first.error !== undefined) throw link.first.error
    beforeCommit()
    this.ownership.handOver()
    try {
      await link.first.unless(link.wire.commit())
      await link.first.unless(link.wire.answers.taken)
    } catch (cause) {
      this.ownership.ended('broken')
      status.enter('unknown')
      throw handOverUnconfirmed(asMultifdError(cause))
    }
    this.ownership.ended('shut-success')
    this.#took('resumeMs')
    status.enter('completed')
  }

  /** The time since the last call belongs to this part of the downtime. */
  #took(part: keyof DowntimeParts): void {
    const nowMs = performance.now()
    this.#downtime[part] += nowMs - this.#markMs
    this.#markMs = nowMs
  }
}
