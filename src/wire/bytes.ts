// Big-endian numbers, names and quoting: the alphabet every encoder and decoder of this room
// shares. It knows no structure of the migration stream. Data comes in as Uint8Array and leaves as
// Uint8Array, number or string; 64-bit values stay inside as two halves or a checked safe integer.

const encoder = new TextEncoder()
// A leading byte order mark belongs to the name: dropping it would break the round trip.
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

const TWO_32 = 0x1_0000_0000

/** A view for big-endian access to exactly these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/**
 * Writes a safe integer as be64. @throws RangeError if it is negative, fractional or above 2^53-1
 */
export function setBe64(view: DataView, at: number, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`expected an integer of 0 .. 2^53-1 for a 64-bit field, got ${value}`)
  }
  view.setUint32(at, Math.floor(value / TWO_32))
  view.setUint32(at + 4, value % TWO_32)
}

/** Reads be64; undefined if the value is above 2^53-1. */
export function getBe64(view: DataView, at: number): number | undefined {
  const value = view.getUint32(at) * TWO_32 + view.getUint32(at + 4)
  return Number.isSafeInteger(value) ? value : undefined
}

/** Checks an unsigned field of a caller's value. @throws RangeError that names the field */
export function checkUnsigned(name: string, value: number, max: number): void {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new RangeError(`expected ${name} to be an integer of 0 .. ${max}, got ${value}`)
  }
}

/** @throws RangeError if the value does not fit in an unsigned 32-bit field */
export function be32(value: number): Uint8Array {
  checkUnsigned('a 32-bit field', value, 0xffff_ffff)
  const bytes = new Uint8Array(4)
  viewOf(bytes).setUint32(0, value)
  return bytes
}

/** @throws RangeError if the value does not fit in an unsigned 16-bit field */
export function be16(value: number): Uint8Array {
  checkUnsigned('a 16-bit field', value, 0xffff)
  return Uint8Array.of(value >>> 8, value & 0xff)
}

/** @throws RangeError if the value is not a safe integer of at least 0 */
export function be64(value: number): Uint8Array {
  const bytes = new Uint8Array(8)
  setBe64(viewOf(bytes), 0, value)
  return bytes
}

export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const whole = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

export function encodeText(text: string): Uint8Array {
  return encoder.encode(text)
}

/**
 * Encodes a name of the wire (machine, block, device, capability).
 * @throws RangeError if it is empty, longer than maxBytes, holds a NUL or is not well-formed
 * Unicode
 */
export function encodeName(what: string, name: string, maxBytes: number): Uint8Array {
  const bytes = encoder.encode(name)
  if (bytes.length === 0 || bytes.length > maxBytes || decodeName(bytes) !== name) {
    throw new RangeError(
      `expected the ${what} to be 1 .. ${maxBytes} bytes of UTF-8 without NUL, got ` +
        `${bytes.length} bytes: ${JSON.stringify(name.slice(0, 64))}`,
    )
  }
  return bytes
}

/** A name with its one-byte length in front, as QEMU writes idstr and block names. */
export function encodeCounted(what: string, name: string): Uint8Array {
  const bytes = encodeName(what, name, 255)
  return concatBytes(Uint8Array.of(bytes.length), bytes)
}

/** Decodes a name; undefined if it is empty, holds a NUL or is not UTF-8. */
export function decodeName(bytes: Uint8Array): string | undefined {
  if (bytes.length === 0 || bytes.includes(0)) return undefined
  return decodeText(bytes)
}

/** Decodes UTF-8; undefined if the bytes are not UTF-8. */
export function decodeText(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes)
  } catch {
    return undefined
  }
}

export function hex(value: number, digits = 0): string {
  return `0x${value.toString(16).padStart(digits, '0')}`
}

const QUOTED_BYTES_MAX = 32

/**
 * What came, for an error sentence: hex always, and text in front when all of it is printable, so
 * that an HTTP request or a shell banner is recognised at a glance.
 */
export function quoteBytes(bytes: Uint8Array): string {
  const shown = bytes.subarray(0, QUOTED_BYTES_MAX)
  const dump = Array.from(shown, (byte) => byte.toString(16).padStart(2, '0')).join(' ')
  const more = bytes.length > shown.length ? ` ... (${bytes.length} bytes)` : ''
  if (shown.length === 0) return 'nothing'
  if (shown.length < 2 || !shown.every(isPrintable)) return `${dump}${more}`
  return `${JSON.stringify(String.fromCharCode(...shown))} (${dump}${more})`
}

function isPrintable(byte: number): boolean {
  return (byte >= 0x20 && byte < 0x7f) || byte === 0x0d || byte === 0x0a || byte === 0x09
}
