// A zero-copy channel over a simulated path: a bottleneck of a given speed, a round trip, limits on
// locked and option memory. It follows the rules that the policy expects of the native engines, and
// its clock counts ticks. Time passes only where the channel waits: the sender itself is free.

import type {
  AdaptiveSnapshot,
  AdaptiveThresholds,
} from '../../src/schedule/adaptive-thresholds.ts'

const KIB = 1024
const MIB = 1024 * KIB

export interface Path {
  /** Whether the kernel copies a zero-copy send; by bytes sent before it. */
  copies: (sentBytes: number) => boolean
  /** What the path carries in a tick. */
  bytesPerTick: number
  /** From leaving the bottleneck to its release. */
  roundTripTicks: number
  /** More unreleased bytes than this are refused. */
  memlockBytes: number
  /** More unreleased calls than this are refused. */
  optmemCalls: number
  /** A plain send blocks while more than this is in the socket. */
  socketBytes: number
  recordBytes: number
}

/** A full record of packets between our own ends: 472 pages and a header as long as a page. */
export const LARGE_RECORD_BYTES = 473 * 4 * KIB

export const plainPath: Path = {
  copies: () => false,
  bytesPerTick: 1000,
  roundTripTicks: 0,
  memlockBytes: Number.POSITIVE_INFINITY,
  optmemCalls: Number.POSITIVE_INFINITY,
  socketBytes: 4 * MIB,
  recordBytes: MIB,
}

interface Call {
  bytes: number
  sentAt: number
  releasedAt: number
}

type Writable<T> = { -readonly [Name in keyof T]: T[Name] }
type Marks = Pick<AdaptiveThresholds, 'highWaterBytes' | 'lowWaterBytes' | 'zeroCopyUntilBytes'>

/** Below this a call is not worth zero-copy. */
const ZERO_COPY_MIN_BYTES = 16 * KIB

export class SimulatedChannel {
  readonly path: Path
  now = 0
  readonly counters: Writable<AdaptiveSnapshot> = {
    channelId: 0,
    sentBytes: 0,
    unreleasedBytes: 0,
    unreleasedHighBytes: 0,
    unreleasedRecentHighBytes: 0,
    zeroCopyBytes: 0,
    copiedBytes: 0,
    waitsAtHighWater: 0,
    dryWaits: 0,
    queuedWaits: 0,
    refusals: 0,
    refusedByMemlock: 0,
    refusedByOptmem: 0,
    zeroCopyTriedBytes: 0,
  }
  #marks: Marks
  /** Takes the place of the marks after so many bytes of the extent: JS may be late. */
  #late: { marks: Marks; bytes: number } | undefined
  readonly #unreleased: Call[] = []
  /** When the bottleneck will have nothing left to do. */
  #idleAt = 0
  #lastRoundTripTicks = 0

  constructor(path: Path, marks: Marks) {
    this.path = path
    this.#marks = marks
  }

  setMarks(marks: Marks, lateBytes: number): void {
    if (lateBytes === 0) this.#marks = marks
    else this.#late = { marks, bytes: lateBytes }
  }

  sendExtent(bytes: number): AdaptiveSnapshot {
    this.counters.unreleasedRecentHighBytes = this.counters.unreleasedBytes
    for (let left = bytes; left > 0; ) {
      const size = Math.min(left, this.path.recordBytes)
      this.#sendRecord(size)
      left -= size
      if (this.#late === undefined) continue
      this.#late.bytes -= size
      if (this.#late.bytes > 0) continue
      this.#marks = this.#late.marks
      this.#late = undefined
    }
    if (this.#late !== undefined) this.#marks = this.#late.marks
    this.#late = undefined
    return { ...this.counters }
  }

  /** The end of a round. */
  flush(): void {
    this.#waitFor(0)
  }

  #sendRecord(bytes: number): void {
    const { highWaterBytes, zeroCopyUntilBytes } = this.#marks
    const { counters } = this
    let zeroCopy =
      highWaterBytes > 0 &&
      bytes >= ZERO_COPY_MIN_BYTES &&
      counters.zeroCopyTriedBytes < zeroCopyUntilBytes
    if (zeroCopy) counters.zeroCopyTriedBytes += bytes
    let callMax = Math.max(ZERO_COPY_MIN_BYTES, highWaterBytes / 4)
    for (let left = bytes; left > 0; ) {
      // Even calls: a remainder would take the place of a whole one below the mark.
      const size = zeroCopy ? Math.ceil(left / Math.ceil(left / callMax)) : left
      if (!zeroCopy) this.#transmit(size)
      else if (!this.#sendZeroCopy(size)) {
        if (counters.unreleasedBytes > 0) {
          this.#waitFor(counters.unreleasedBytes - 1)
          continue
        }
        callMax = Math.floor(size / 2)
        zeroCopy = callMax >= ZERO_COPY_MIN_BYTES
        continue
      }
      left -= size
      counters.sentBytes += size
      this.#reap()
    }
    // A plain send blocks at the socket's limit; what is zero-copied is bounded by the marks.
    if (!zeroCopy) {
      this.now = Math.max(this.now, this.#idleAt - this.path.socketBytes / this.path.bytesPerTick)
    }
  }

  #sendZeroCopy(bytes: number): boolean {
    const { counters, path } = this
    if (counters.unreleasedBytes + bytes > this.#marks.highWaterBytes) {
      this.#waitFor(this.#marks.lowWaterBytes)
      counters.waitsAtHighWater += 1
      // What is sent is in the network at once: nothing is ever unsent, a wait is one or the other.
      if (this.#lastRoundTripTicks > 2 * path.roundTripTicks) counters.queuedWaits += 1
      else counters.dryWaits += 1
    }
    if (counters.unreleasedBytes + bytes > path.memlockBytes) {
      counters.refusedByMemlock += 1
      return false
    }
    if (this.#unreleased.length + 1 > path.optmemCalls) {
      counters.refusedByOptmem += 1
      return false
    }
    const sentAt = this.now
    const copied = path.copies(counters.sentBytes)
    this.#transmit(bytes)
    if (copied) {
      counters.copiedBytes += bytes
      return true
    }
    const releasedAt = this.#idleAt + path.roundTripTicks
    this.#unreleased.push({ bytes, sentAt, releasedAt })
    counters.unreleasedBytes += bytes
    const unreleased = counters.unreleasedBytes
    counters.unreleasedHighBytes = Math.max(counters.unreleasedHighBytes, unreleased)
    counters.unreleasedRecentHighBytes = Math.max(counters.unreleasedRecentHighBytes, unreleased)
    return true
  }

  #transmit(bytes: number): void {
    this.#idleAt = Math.max(this.now, this.#idleAt) + bytes / this.path.bytesPerTick
  }

  #waitFor(targetBytes: number): void {
    while (this.counters.unreleasedBytes > targetBytes) {
      this.now = Math.max(this.now, this.#unreleased[0]?.releasedAt ?? this.now)
      this.#reap()
    }
  }

  #reap(): void {
    for (;;) {
      const call = this.#unreleased[0]
      if (call === undefined || call.releasedAt > this.now) return
      this.#unreleased.shift()
      this.#lastRoundTripTicks = call.releasedAt - call.sentAt
      this.counters.unreleasedBytes -= call.bytes
      this.counters.zeroCopyBytes += call.bytes
    }
  }
}
