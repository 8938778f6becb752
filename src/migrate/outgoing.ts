// One outgoing migration from the first section to the stop: rounds of RAM beside the turns of its
// devices, until it is decided to stop the guest. It works with what it is given and makes no
// sockets or threads itself; a connection that breaks while the guest runs is replaced by another.
//
//   begin ─► round 0, 1, ... ─► switchover (switchover.ts)
//     └─ a break: reconnect ─┘
//   └── any failure: the guest runs on here ──┘

import { deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { trace } from '../kit/trace.ts'
import type { Convergence } from './convergence.ts'
import type { Decision } from './decision.ts'
import type { DevicePasses } from './passes.ts'
import type { RamRounds } from './ram-rounds.ts'
import { mayReconnect, reconnect } from './reconnect.ts'
import type { SourceLink } from './source-link.ts'
import type { SourceSettings } from './source-options.ts'
import type { StatusMachine } from './status.ts'
import type { Switchover } from './switchover.ts'
import { asMultifdError, type FirstError } from './teardown.ts'
import { callVmm } from './vmm.ts'

/** Between rounds while only the destination's acknowledgement is missing. */
const ACK_ROUND_MS = 50

/**
 * Breaks within one round after which the path is given up: one that breaks again as soon as it is
 * there would otherwise keep the migration busy for ever.
 */
const BREAKS_MAX = 16

/** What an outgoing migration works with; made, and taken down, by outgoing-session.ts. */
export interface OutgoingParts {
  settings: SourceSettings
  status: StatusMachine
  /** Ends the migration over whatever connection. */
  first: FirstError
  rounds: RamRounds
  passes: DevicePasses
  convergence: Convergence
  switchover: Switchover
  /** There is another decision. */
  decided: () => void
  /** Opens a connection; `resuming` when another one carried this migration before. */
  openLink: (resuming: boolean) => Promise<SourceLink>
}

export class Outgoing {
  readonly #parts: OutgoingParts
  #link: SourceLink
  #decision: Decision | undefined
  #throttled = false
  /** Since the last round that was sent in full. */
  #breaks = 0
  /** Settles when the migration goes on; undefined unless it is paused. */
  #paused: ReturnType<typeof deferred<void>> | undefined
  #pauses = 0
  /** No more round follows: the guest is about to be stopped, or has been. */
  #ending = false

  /** @param link the first connection, open */
  constructor(parts: OutgoingParts, link: SourceLink) {
    this.#parts = parts
    this.#link = link
  }

  /** The latest one; undefined before the first round was collected. */
  get decision(): Decision | undefined {
    return this.#decision
  }

  /** Everything from the first section on. */
  async run(): Promise<void> {
    const { rounds, status, switchover } = this.#parts
    await rounds.start(this.#link)
    await this.#begin()
    status.enter('active')
    await this.#precopy()
    await switchover.run(this.#link, rounds)
  }

  /**
   * Sends nothing more but what is on its way, until `continue`. The guest runs on; once it is
   * about to stop there is no pausing any more.
   */
  pause(): void {
    if (this.#paused !== undefined || this.#ending) return
    this.#pauses += 1
    this.#paused = deferred()
    this.#link.sender.pause()
  }

  continue(): void {
    this.#paused?.resolve()
    this.#paused = undefined
    this.#link.sender.continue()
    this.#parts.switchover.continue()
  }

  /** The limit has changed: what waited for the old one looks again. */
  limitChanged(): void {
    this.#link.paceChannels()
    this.#parts.passes.poke()
    if (this.#paused === undefined) this.#link.sender.continue()
  }

  /** For a device's turn: waits while the migration is paused, and for room in the connection. */
  async writeState(
    ...[handler, part, state]: Parameters<SourceLink['wire']['deviceSection']>
  ): Promise<number> {
    const link = this.#link
    while (this.#paused !== undefined) await link.first.unless(this.#paused.promise)
    return await link.first.unless(link.wire.deviceSection(handler, part, state))
  }

  /** The migration has failed: the guest, if it is ours, runs on at its full speed. */
  async giveBackGuest(): Promise<void> {
    const { settings, switchover } = this.#parts
    const { throttle } = settings.vmm
    try {
      if (this.#throttled && throttle !== undefined) {
        await callVmm('lifting the throttle', () => throttle.call(settings.vmm, 0))
      }
    } finally {
      await switchover.resumeGuest()
    }
  }

  /** The block list, the SYNC of setup, and the devices' first state, before any page. */
  async #begin(): Promise<void> {
    const { wire, sender, first } = this.#link
    await first.unless(wire.ramStart(this.#parts.settings.memory.blocks))
    await first.unless(sender.send([]))
    await this.#parts.passes.setup()
  }

  /**
   * Rounds while the guest runs, over as many connections as it takes; returns with one begun that
   * is to be the last.
   */
  async #precopy(): Promise<void> {
    const { first, passes, settings } = this.#parts
    let broken: MultifdError | undefined
    for (;;) {
      try {
        if (broken !== undefined) await this.#resume(broken)
        const running = passes.run()
        running.catch((thrown: unknown) => this.#deviceFailed(asMultifdError(thrown)))
        await this.#rounds()
        await passes.stop()
        await this.#mainChannelDone()
        return
      } catch (thrown) {
        this.#ending = false
        broken = asMultifdError(thrown)
        await passes.stop().catch(() => {})
        if (first.error !== undefined || settings.reconnectTimeoutMs === 0) throw broken
        if (!mayReconnect(this.#link, broken)) throw broken
        this.#breaks += 1
        if (this.#breaks > BREAKS_MAX) throw brokeTooOften(broken)
      }
    }
  }

  /** A turn ended badly: by the device itself, or because its connection broke. */
  #deviceFailed(error: MultifdError): void {
    if (this.#link.first.error === undefined) this.#parts.first.set(error)
  }

  async #rounds(): Promise<void> {
    const { passes, rounds } = this.#parts
    await rounds.begin(this.#link)
    while ((await this.#decideOnRound()) || !(await this.#mayEnd())) {
      passes.poke()
      await this.#awaitAck()
      await this.#sendRound()
      // A small round 0 fits the socket buffers: the guest must not stop for a destination that is
      // still emptying its memory.
      await this.#link.first.unless(this.#link.wire.answers.acknowledged(0))
      if (this.#paused !== undefined) await this.#link.first.unless(this.#paused.promise)
      await rounds.begin(this.#link)
    }
    // A break that nobody met yet is still one that another connection mends.
    if (this.#link.first.error !== undefined) throw this.#link.first.error
  }

  /** It was decided to stop the guest. False: there was a pause, and the round is one more. */
  async #mayEnd(): Promise<boolean> {
    // The guest must not stop for a destination that is behind: with pages in socket buffers, or
    // with devices that load more slowly than they are sent.
    await this.#parts.rounds.collected(this.#link)
    this.#ending = this.#paused === undefined
    return this.#ending
  }

  /** Pieces of a device must not overtake its START and PARTs, which are on the main channel. */
  async #mainChannelDone(): Promise<void> {
    if (!this.#parts.settings.devices.some(({ inPieces }) => inPieces)) return
    await this.#link.first.unless(this.#link.wire.done())
  }

  async #sendRound(): Promise<void> {
    const { convergence, rounds } = this.#parts
    const pauses = this.#pauses
    const pausedBefore = this.#paused !== undefined
    const figures = await rounds.send(this.#link, false)
    this.#breaks = 0
    // One that was paused says nothing about the path.
    if (!pausedBefore && pauses === this.#pauses) convergence.roundSent(figures)
    await rounds.endPart(this.#link)
  }

  /** Whether the round that was begun is one more; false: it is the last one. */
  async #decideOnRound(): Promise<boolean> {
    const { convergence, decided, passes, rounds, settings } = this.#parts
    const { first, wire } = this.#link
    const pending = await first.unless(passes.pendingExact())
    const decision = convergence.roundBegun({
      dirtyBytes: rounds.dirtyBytes,
      intervalMs: rounds.intervalMs,
      devicePendingBytes: pending.iterableBytes,
      stopOnlyDeviceBytes: pending.stopOnlyBytes,
      loadTimeMs: settings.devices.reduce((sum, { loadTimeMs }) => sum + loadTimeMs, 0),
      roundTripMs: wire.answers.roundTripMs,
      nowMs: performance.now(),
      switchoverAcked: wire.answers.switchoverAcked,
      maxBandwidthBytesPerSecond: rounds.bytesPerSecondMax,
    })
    this.#decision = decision
    const { kind, cause, reason } = decision
    trace('multifd:decision', () => ({ kind, cause, reason }))
    decided()
    if (decision.throttlePercent !== undefined) await this.#throttle(decision.throttlePercent)
    if (kind === 'cancel') throw new MultifdError('ERR_MULTIFD_ABORTED', reason)
    return kind === 'round'
  }

  /** The destination's devices hold the stop up: waits, instead of sending empty rounds. */
  async #awaitAck(): Promise<void> {
    if (this.#decision?.cause !== 'awaiting-ack') return
    const { first, wire } = this.#link
    await Promise.race([wire.answers.switchoverAck, first.sleep(ACK_ROUND_MS)])
  }

  async #throttle(percent: number): Promise<void> {
    const { vmm } = this.#parts.settings
    this.#throttled = true
    await callVmm('throttling the guest', () => vmm.throttle?.(percent))
  }

  /** Another connection for the one that broke, and what it did not deliver for another round. */
  async #resume(broken: MultifdError): Promise<void> {
    const { first, openLink, rounds, settings, status } = this.#parts
    // It may have broken again before a status could tell.
    if (status.status !== 'reconnecting') status.enter('reconnecting')
    await this.#link.destroy()
    this.#link = await reconnect({
      broken,
      timeoutMs: settings.reconnectTimeoutMs,
      migrationFailed: first,
      open: () => openLink(true),
    })
    await rounds.giveBack(
      this.#link,
      await this.#link.first.unless(this.#link.wire.answers.resumeAnswer),
    )
    await this.#begin()
    if (this.#paused !== undefined) this.#link.sender.pause()
    status.enter('active')
  }
}

function brokeTooOften(broken: MultifdError): MultifdError {
  return new MultifdError(
    broken.code,
    `the connection broke ${BREAKS_MAX + 1} times within one round, the last time so: ` +
      `${broken.message}; look at the path before the next attempt`,
    { cause: broken },
  )
}
