// Whose the guest is, as far as a relay can know. A QEMU destination starts the guest by itself
// once it has everything, so what follows from a broken connection depends on whether it could
// have. Pure: events in, a verdict out.

/** What can end the wait for the destination's answer. */
export type DestinationEnd =
  /** SHUT(0): it has loaded everything. */
  | 'shut-success'
  /** SHUT with another status: it failed, and says so. */
  | 'shut-failure'
  /** An orderly end of the connection: QEMU is gone, or gave up, and runs no guest. */
  | 'closed'
  /** A reset, or a network error: nobody knows what it has read. */
  | 'broken'
  /** Nothing came within peerTimeoutMs. */
  | 'silent'
  /** What came is no answer. */
  | 'garbled'
  /** The relay itself was told to end. */
  | 'aborted'

/**
 * - `source-resumes`: the destination does not have the guest and never will.
 * - `completed`: it has.
 * - `unknown`: it may run there; the source must stay as it is until somebody looked.
 */
export type Verdict = 'source-resumes' | 'completed' | 'unknown'

/** @param handedOver the last bytes of the stream are on their way to the destination */
export function verdictOf(handedOver: boolean, end: DestinationEnd): Verdict {
  if (!handedOver || end === 'shut-failure' || end === 'closed') return 'source-resumes'
  return end === 'shut-success' ? 'completed' : 'unknown'
}
