// Finding the end of a QEMU stream's device part, whose sections do not say how long they are. The
// vmdescription behind EOF does, so bytes that look like "footer, EOF, vmdescription" are taken for
// the end only if the lengths it lists add up to the bytes before it. The bytes themselves stay
// opaque.

import { VMDESC_BYTES_MAX } from '../kit/limits.ts'
import { ByteQueue } from './byte-queue.ts'
import { decodeText } from './bytes.ts'
import { QEMU_VM_EOF, QEMU_VM_SECTION_FOOTER, QEMU_VM_VMDESCRIPTION } from './constants.ts'
import { describedDeviceBytes } from './vmdescription.ts'

const FOOTER_BYTES = 5
/** Footer, EOF, the vmdescription's type byte and be32 length, and the `{` of its text. */
const PATTERN_BYTES = FOOTER_BYTES + 1 + 1 + 4 + 1
const OPENING_BRACE = 0x7b

/** Where a vmdescription may be; positions count from the first byte of the tail. */
interface Candidate {
  eofAt: number
  textAt: number
  textEnd: number
}

export class DeviceTail {
  // Holds the bytes from the candidate's text on, or the last few while there is no candidate.
  readonly #queue = new ByteQueue()
  #scanAt = 0
  #candidate: Candidate | undefined
  #doubtfulEnd: number | undefined
  #end: Candidate | undefined
  #vmdescription = ''

  /** Bytes of the FULL sections; undefined until the end was found. */
  get deviceBytes(): number | undefined {
    return this.#end?.eofAt
  }

  /** The text at the end, once that was found. */
  get vmdescription(): string {
    return this.#vmdescription
  }

  /** Takes the next bytes. @returns how many of them belong to the tail */
  push(bytes: Uint8Array): number {
    if (this.deviceBytes !== undefined) return 0
    const before = this.#received
    this.#queue.append(bytes)
    let end = this.#judgeCandidate()
    while (end === undefined && this.#scan()) end = this.#judgeCandidate()
    if (end !== undefined) return end.textEnd - before
    const keepFrom = Math.min(this.#scanAt, this.#candidate?.textAt ?? this.#scanAt)
    this.#queue.skip(keepFrom - this.#queue.position)
    return bytes.length
  }

  /**
   * Whether a stream that stops here may be complete: at its vmdescription, also at one whose
   * lengths do not fit, or at the EOF of a machine that sends none.
   */
  mayEndHere(): boolean {
    if (this.#end !== undefined || this.#doubtfulEnd === this.#received) return true
    const held = this.#queue.available
    const last = this.#queue.peek(held).subarray(-(FOOTER_BYTES + 1))
    return last[0] === QEMU_VM_SECTION_FOOTER && last[FOOTER_BYTES] === QEMU_VM_EOF
  }

  get #received(): number {
    return this.#queue.position + this.#queue.available
  }

  /** Looks for the next candidate. @returns true if one was found */
  #scan(): boolean {
    const queue = this.#queue
    for (; this.#scanAt + PATTERN_BYTES <= this.#received; this.#scanAt++) {
      const at = this.#scanAt - queue.position
      if (queue.byteAt(at) !== QEMU_VM_SECTION_FOOTER) continue
      if (queue.byteAt(at + FOOTER_BYTES) !== QEMU_VM_EOF) continue
      if (queue.byteAt(at + FOOTER_BYTES + 1) !== QEMU_VM_VMDESCRIPTION) continue
      if (queue.byteAt(at + PATTERN_BYTES - 1) !== OPENING_BRACE) continue
      const length = queue.be32At(at + FOOTER_BYTES + 2)
      if (length > VMDESC_BYTES_MAX) continue
      // JSON holds no NUL, and this pattern does: a candidate around this one was a false one.
      const textAt = this.#scanAt + PATTERN_BYTES - 1
      this.#candidate = { eofAt: this.#scanAt + FOOTER_BYTES, textAt, textEnd: textAt + length }
      this.#scanAt++
      return true
    }
    return false
  }

  /**
   * Once all of the candidate's text is there, accepts or drops it. @returns the end, if this is it
   */
  #judgeCandidate(): Candidate | undefined {
    const candidate = this.#candidate
    if (candidate === undefined || candidate.textEnd > this.#received) return undefined
    this.#candidate = undefined
    const from = candidate.textAt - this.#queue.position
    const to = candidate.textEnd - this.#queue.position
    const bytes = this.#queue.peek(to).subarray(from)
    const text = bytes.includes(0) ? undefined : decodeText(bytes)
    const deviceBytes = text === undefined ? undefined : describedDeviceBytes(text)
    if (text === undefined || deviceBytes === undefined) return undefined
    if (deviceBytes !== candidate.eofAt) {
      this.#doubtfulEnd = candidate.textEnd
      return undefined
    }
    this.#end = candidate
    this.#vmdescription = text
    return candidate
  }
}
