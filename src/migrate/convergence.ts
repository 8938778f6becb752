// The decision between two rounds: one more, stop the guest, or give up; when to slow the guest
// down; and each time why, in words. Pure: times and bytes come in as numbers, the words and
// figures go into progress events, and what is decided is done elsewhere.
//
//   roundBegun ─► 'round' ─► (the round is sent) ─► roundSent ─► (collect) ─► roundBegun ─► ...
//              └► 'switchover' or 'cancel': nothing is asked any more

import { AutoConverge } from './auto-converge.ts'
import type { ConvergenceSettings } from './convergence-options.ts'
import { adviceOf, reasonOf } from './convergence-words.ts'
import type { Decision, DecisionCause, DecisionKind, Outlook, RoundBegun } from './decision.ts'
import { BandwidthEstimate, predictDowntimeMs } from './downtime.ts'
import { RemainingTrend } from './remaining-trend.ts'

/** A further round, although the limit is met, must save this share of the stop, ... */
const CLEAR_SAVING = 0.2
/** ... and this much; below it is noise of timers and threads. */
const CLEAR_SAVING_MS = 2
/** How many such rounds in all: each takes about as long as the stop that it shortens. */
const FURTHER_ROUNDS_MAX = 8
/** In a long round many writes hit the same pages: how much of an earlier, higher rate counts. */
const EARLIER_RATE = 0.5

export class Convergence {
  /** In force from the next decision on; checked by whoever sets them (checkConvergence). */
  settings: ConvergenceSettings
  readonly #bandwidth = new BandwidthEstimate()
  readonly #throttle = new AutoConverge()
  readonly #trend = new RemainingTrend()
  #round = -1
  #beganMs = 0
  #begun: RoundBegun | undefined
  #sentMs = 0
  /**
   * What a round takes beyond its sending: collect, plan, answers. The least so far, as a machine
   * that is busy for a moment says nothing about the next round. Unknown until round 2.
   */
  #overheadMs: number | undefined
  #dirtyBytesPerSecond = 0
  #peakBytesPerSecond = 0
  #bestDowntimeMs = Number.POSITIVE_INFINITY
  #furtherRounds = 0

  constructor(settings: ConvergenceSettings) {
    this.settings = settings
  }

  /** Percent that the guest is slowed down by; 0 until a decision said otherwise; never falls. */
  get throttlePercent(): number {
    return this.#throttle.percent
  }
  /** What the guest wrote per second, over the last round; 0 in round 0. */
  get dirtyBytesPerSecond(): number {
    return this.#dirtyBytesPerSecond
  }
  /** Of a round like the latest one; undefined until one was sent. */
  get bandwidthBytesPerSecond(): number | undefined {
    return this.#bandwidth.bytesPerSecond
  }

  /** If the guest were stopped with that much of its pages to send; Infinity in round 0. */
  expectedDowntimeMs(dirtyBytes: number): number {
    if (this.#begun === undefined || this.#bandwidth.bytesPerSecond === undefined) {
      return Number.POSITIVE_INFINITY
    }
    return this.#stopMs(this.#begun, stopBytesOf({ ...this.#begun, dirtyBytes }))
  }

  /**
   * The round was sent. `bytes`: pages before compression, and packet headers, or what was on the
   * wire if that is more; `elapsedMs` until the last byte had left and was released.
   */
  roundSent({ bytes, elapsedMs }: { bytes: number; elapsedMs: number }): void {
    // Zero pages cost next to no bytes. Those that the guest dirtied say what the next ones will
    // cost; those of round 0, where most of memory may be zero, say nothing about them.
    const dirtyBytes = this.#round === 0 ? 0 : (this.#begun?.dirtyBytes ?? 0)
    const carriedBytes = Math.max(bytes, dirtyBytes)
    this.#bandwidth.addRound(carriedBytes, elapsedMs)
    this.#throttle.roundSent(carriedBytes)
    this.#sentMs = elapsedMs
  }

  /** What to do with the round that was just collected. The first one is round 0. */
  roundBegun(begun: RoundBegun): Decision {
    this.#enter(begun)
    const outlook = this.#outlook(begun)
    this.#bestDowntimeMs = Math.min(this.#bestDowntimeMs, outlook.downtimeMs)
    const [kind, cause] = this.#judge(outlook)
    if (cause === 'further-round') this.#furtherRounds += 1
    const writtenBytes = this.#round === 0 ? 0 : begun.dirtyBytes
    const step = this.#throttle.collected(writtenBytes, begun.nowMs, this.settings)
    if (!step || cause !== 'above-limit') return told(kind, cause, outlook)
    this.#trend.restart(begun.dirtyBytes + begun.devicePendingBytes, begun.nowMs)
    const throttlePercent = this.#throttle.rise(this.settings)
    return { ...told(kind, cause, { ...outlook, throttlePercent }), throttlePercent }
  }

  /**
   * For a timer that looks while a long round is sent: the decision to cancel when the time limit
   * has passed. A limit that ends in a switchover waits for the end of the round.
   */
  overdue(nowMs: number): Decision | undefined {
    if (this.#begun === undefined || this.settings.timeLimitEnd !== 'cancel') return undefined
    if (!this.#late(nowMs)) return undefined
    return told('cancel', 'time-limit', this.#outlook({ ...this.#begun, nowMs }))
  }

  /** Takes in what the collect found. */
  #enter(begun: RoundBegun): void {
    const { dirtyBytes, devicePendingBytes, intervalMs, nowMs } = begun
    this.#begun = begun
    this.#round += 1
    if (this.#round === 0) {
      this.#beganMs = nowMs
      return
    }
    // The interval of round 0 may hold the time in which the destination emptied its memory.
    if (this.#round > 1) {
      const overheadMs = Math.max(0, intervalMs - this.#sentMs)
      this.#overheadMs = Math.min(this.#overheadMs ?? overheadMs, overheadMs)
    }
    this.#dirtyBytesPerSecond = (dirtyBytes / Math.max(intervalMs, 1)) * 1000
    this.#peakBytesPerSecond = Math.max(
      this.#dirtyBytesPerSecond,
      this.#peakBytesPerSecond * EARLIER_RATE,
    )
    this.#trend.add(dirtyBytes + devicePendingBytes, nowMs)
  }

  #outlook(begun: RoundBegun): Outlook {
    const stopBytes = stopBytesOf(begun)
    const downtimeMs = this.#stopMs(begun, stopBytes)
    const stalled = this.#trend.stalled(begun.nowMs)
    const nextBytes = stalled ? this.#trend.leastBytes : this.#nextBytes(begun)
    const nextStopBytes = nextBytes + begun.stopOnlyDeviceBytes
    return {
      settings: this.settings,
      begun,
      round: this.#round,
      stopBytes,
      bandwidthBytesPerSecond: this.#bandwidthFor(begun, stopBytes),
      dirtyBytesPerSecond: this.#dirtyBytesPerSecond,
      downtimeMs,
      nextStopBytes,
      nextDowntimeMs: this.#stopMs(begun, nextStopBytes),
      bestDowntimeMs: Math.min(this.#bestDowntimeMs, downtimeMs),
      throttlePercent: this.#throttle.percent,
      stalled,
      elapsedMs: begun.nowMs - this.#beganMs,
    }
  }

  #judge(outlook: Outlook): [DecisionKind, DecisionCause] {
    const { begun, downtimeMs, stalled } = outlook
    if (this.#round === 0) return ['round', 'first-round']
    const late = this.#late(begun.nowMs)
    if (late && this.settings.timeLimitEnd === 'cancel') return ['cancel', 'time-limit']
    const nothingDirty = begun.dirtyBytes + begun.devicePendingBytes === 0
    const within = downtimeMs <= this.settings.downtimeLimitMs
    if (late || nothingDirty || within) {
      if (!begun.switchoverAcked) return ['round', 'awaiting-ack']
      if (late) return ['switchover', 'time-limit']
      // Another round could not make it any better, whatever the limit.
      if (nothingDirty) return ['switchover', 'nothing-dirty']
      if (this.#furtherPays(outlook)) return ['round', 'further-round']
      return ['switchover', stalled ? 'local-minimum' : 'within-limit']
    }
    // While the guest can be slowed down more, it has not stalled.
    if (stalled && !this.#throttle.canRise(this.settings)) return ['round', 'stalled']
    return ['round', 'above-limit']
  }

  #furtherPays({ downtimeMs, nextDowntimeMs }: Outlook): boolean {
    if (this.#furtherRounds >= FURTHER_ROUNDS_MAX) return false
    return downtimeMs - nextDowntimeMs >= Math.max(CLEAR_SAVING_MS, downtimeMs * CLEAR_SAVING)
  }

  /** What pages and pre-copy state will be left after one more round. */
  #nextBytes(begun: RoundBegun): number {
    const { dirtyBytes, devicePendingBytes, roundTripMs } = begun
    const roundBytes = dirtyBytes + devicePendingBytes
    const bandwidth = this.#bandwidthFor(begun, roundBytes)
    if (roundBytes === 0 || bandwidth === undefined) return roundBytes
    const roundMs = (roundBytes / bandwidth) * 1000 + (this.#overheadMs ?? roundTripMs)
    return (this.#peakBytesPerSecond * roundMs) / 1000 + devicePendingBytes
  }

  #stopMs(begun: RoundBegun, remainingBytes: number): number {
    const { loadTimeMs, roundTripMs } = begun
    const bandwidthBytesPerSecond = this.#bandwidthFor(begun, remainingBytes)
    return predictDowntimeMs({ remainingBytes, bandwidthBytesPerSecond, roundTripMs, loadTimeMs })
  }

  #bandwidthFor(begun: RoundBegun, bytes: number): number | undefined {
    const { maxBandwidthBytesPerSecond: limit = 0 } = begun
    const measured = this.#bandwidth.bytesPerSecondFor(bytes)
    return measured === undefined || limit === 0 ? measured : Math.min(measured, limit)
  }

  #late(nowMs: number): boolean {
    const { timeLimitMs } = this.settings
    return timeLimitMs > 0 && nowMs - this.#beganMs >= timeLimitMs
  }
}

/** What a stop sends: pages, and the state of all devices. */
function stopBytesOf({ dirtyBytes, devicePendingBytes, stopOnlyDeviceBytes }: RoundBegun): number {
  return dirtyBytes + devicePendingBytes + stopOnlyDeviceBytes
}

function told(kind: DecisionKind, cause: DecisionCause, outlook: Outlook): Decision {
  return {
    kind,
    cause,
    reason: reasonOf(kind, cause, outlook),
    ...(cause === 'stalled' ? { advice: adviceOf(outlook) } : {}),
    expectedDowntimeMs: outlook.downtimeMs,
    expectedRemainingBytes: outlook.nextStopBytes,
    dirtyBytesPerSecond: outlook.dirtyBytesPerSecond,
    bandwidthBytesPerSecond: outlook.bandwidthBytesPerSecond,
  }
}
