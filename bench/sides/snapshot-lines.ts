// What a comparison tells a side that stores a guest of QEMU or sends a stored one, and what the
// side answers: JSON lines. Both ends of every line import their types from here.

/** The only argument of either side. */
export interface SnapshotOrder {
  /** Of the snapshot: stored there, or read from there. */
  readonly directory: string
  readonly channels: number
}

/** First line: the side that stores listens, the other one waits for a URI. */
export interface SnapshotReady {
  readonly event: 'ready'
  /** Where to migrate to; empty from the side that sends. */
  readonly uri: string
}

/** A stretch of time, and the CPU time of the side's whole process in it; seconds. */
export interface Span {
  readonly seconds: number
  readonly cpuSeconds: number
}

/** Last line of the side that stores. */
export interface StoredLine {
  readonly event: 'done'
  /** From the first connection until the source was told that everything is durable. */
  readonly storing: Span
  /** From there to the last hash; the source no longer waits. */
  readonly hashing: Span
  /** The file with pc.ram. */
  readonly ramFile: string
}

/** Last line of the side that sends. */
export interface SentLine {
  readonly event: 'done'
  /** From the call to its result. */
  readonly whole: Span
  /** The part of it from the first connect to QEMU's last word. */
  readonly sending: Span
  /** What ran, and why. */
  readonly engine: string
  readonly engineReason: string
}
