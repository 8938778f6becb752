// The bytes that arrived and were not consumed yet, for incremental decoders. It knows nothing of
// their meaning. Each byte is copied in once and out at most once, so a stream costs O(bytes)
// however it is split; what is held is the last push plus what the decoder still waits for.

const CAPACITY_START_BYTES = 4096
/** An empty queue gives a larger buffer back, so one big device does not stay allocated. */
const CAPACITY_KEPT_BYTES = 256 * 1024
/** What is made room for on a peer's word; beyond that room grows with what really comes. */
const CAPACITY_EXPECTED_BYTES = 16 * 1024 * 1024

export class ByteQueue {
  #buffer = new Uint8Array(CAPACITY_START_BYTES)
  #view = new DataView(this.#buffer.buffer)
  #start = 0
  #end = 0
  #consumed = 0

  /** Bytes that can be taken now. */
  get available(): number {
    return this.#end - this.#start
  }

  /** Bytes taken since the beginning: the stream position of the next byte. */
  get position(): number {
    return this.#consumed
  }

  /**
   * So many bytes will be taken at once: one buffer for them, instead of growing and copying as
   * they come.
   */
  expect(n: number): void {
    const missing = Math.min(n, CAPACITY_EXPECTED_BYTES) - this.available
    if (missing > 0) this.#reserve(missing)
  }

  append(bytes: Uint8Array): void {
    this.#reserve(bytes.length)
    this.#buffer.set(bytes, this.#end)
    this.#end += bytes.length
  }

  /** The next n bytes without consuming them; valid until the next append. At most `available`. */
  peek(n: number): Uint8Array {
    return this.#buffer.subarray(this.#start, this.#start + Math.min(n, this.available))
  }

  /** The byte `at` places ahead; the caller has checked that it is there. */
  byteAt(at: number): number {
    return this.#view.getUint8(this.#start + at)
  }

  /** The be32 `at` places ahead; the caller has checked that it is there. */
  be32At(at: number): number {
    return this.#view.getUint32(this.#start + at)
  }

  /** The be16 `at` places ahead; the caller has checked that it is there. */
  be16At(at: number): number {
    return this.#view.getUint16(this.#start + at)
  }

  /** A copy of the next n bytes, consumed. */
  take(n: number): Uint8Array {
    const bytes = this.peek(n).slice()
    this.skip(bytes.length)
    return bytes
  }

  skip(n: number): void {
    this.#start += n
    this.#consumed += n
    if (this.#start !== this.#end) return
    this.#start = 0
    this.#end = 0
    if (this.#buffer.length > CAPACITY_KEPT_BYTES) this.#replace(CAPACITY_START_BYTES)
  }

  /** Forgets everything that is held, after a failure. */
  clear(): void {
    this.skip(this.available)
  }

  #reserve(n: number): void {
    if (this.#end + n <= this.#buffer.length) return
    const needed = this.available + n
    // Moving to the front is paid for by the bytes consumed before it; growing doubles.
    if (needed <= this.#buffer.length / 2) {
      this.#buffer.copyWithin(0, this.#start, this.#end)
      this.#end -= this.#start
      this.#start = 0
      return
    }
    this.#replace(Math.max(needed, this.#buffer.length * 2))
  }

  #replace(capacity: number): void {
    const held = this.peek(this.available)
    const buffer = new Uint8Array(capacity)
    buffer.set(held)
    this.#buffer = buffer
    this.#view = new DataView(buffer.buffer)
    this.#end = held.length
    this.#start = 0
  }
}
