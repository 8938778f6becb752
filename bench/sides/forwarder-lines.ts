// What a comparison tells a forwarder, and what the forwarder answers: JSON lines, as between a
// comparison and its sides.

/** The only argument of its process. */
export interface ForwarderOrder {
  /** Where the destination listens. */
  readonly uri: string
  /** All connections are reset once so many bytes went that way; never unless given. */
  readonly cutAfterBytes?: number
}

export interface ForwarderReady {
  readonly event: 'ready'
  /** Where the source connects to. */
  readonly uri: string
}

/** Its answer to any line. Times are of CLOCK_MONOTONIC, milliseconds. */
export interface Forwarded {
  readonly event: 'done'
  /** Every few milliseconds: when, and how much had come from the source by then, bytes. */
  readonly samples: readonly (readonly [atMs: number, bytes: number])[]
  /** From the cut until pages came again; null if nothing was cut. */
  readonly flowsAgainMs: number | null
}
