// What the decision between two rounds is made from, and what comes of it. Types only; who decides
// is convergence.ts.

import type { ConvergenceSettings } from './convergence-options.ts'

/** A round has been collected, and nothing of it is sent. */
export interface RoundBegun {
  /** Of the pages to send: in round 0 all that are populated, later what the guest wrote. */
  dirtyBytes: number
  /** Since the collect before; 0 in round 0. */
  intervalMs: number
  /** What devices that send state while the guest runs have left; the stop sends what is left. */
  devicePendingBytes: number
  /** State of devices that is sent only in the stop. */
  stopOnlyDeviceBytes: number
  /** The destination's, for the devices' state. */
  loadTimeMs: number
  /** From a PING to its PONG. */
  roundTripMs: number
  /** Monotonic. */
  nowMs: number
  /** False while the destination has yet to say that it could take the guest. */
  switchoverAcked: boolean
  /** The present limit, which no measured bandwidth exceeds; 0 or unset: none. */
  maxBandwidthBytesPerSecond?: number
}

/** Why it was decided so: for programs; for people there is `reason`. */
export type DecisionCause =
  | 'first-round'
  | 'above-limit'
  | 'stalled'
  | 'further-round'
  | 'awaiting-ack'
  | 'within-limit'
  | 'local-minimum'
  | 'nothing-dirty'
  | 'time-limit'

export type DecisionKind = 'round' | 'switchover' | 'cancel'

export interface Decision {
  /** Send the round; or stop the guest and send it as the last one; or call the migration off. */
  kind: DecisionKind
  cause: DecisionCause
  /** A sentence for operators, with figures. */
  reason: string
  /** With the cause `stalled`: what they can do. */
  advice?: string
  /** What the guest is to be slowed down by from now on, percent; only when that changed. */
  throttlePercent?: number
  /** If the guest were stopped now, milliseconds; Infinity until a round was measured. */
  expectedDowntimeMs: number
  /** What will probably be left after one more round, device state included; bytes. */
  expectedRemainingBytes: number
  /** What the guest writes; 0 in round 0. */
  dirtyBytesPerSecond: number
  /** Undefined until a round was sent. */
  bandwidthBytesPerSecond: number | undefined
}

/** The figures a decision is made from, and told with. */
export interface Outlook {
  settings: ConvergenceSettings
  begun: RoundBegun
  /** 0-based, of the round that was collected. */
  round: number
  /** What a stop would send: pages and all device state. */
  stopBytes: number
  bandwidthBytesPerSecond: number | undefined
  dirtyBytesPerSecond: number
  downtimeMs: number
  /** After one more round: what a stop would send then, and cost. */
  nextStopBytes: number
  nextDowntimeMs: number
  /** The shortest predicted stop so far. */
  bestDowntimeMs: number
  throttlePercent: number
  /** What remains no longer falls. */
  stalled: boolean
  /** Since round 0 began. */
  elapsedMs: number
}
