// The VM's UUID: text as people write it, 16 raw bytes as the initial packet carries it. QEMU sends
// the bytes in the order of the text, and all zero when no UUID was given.

import { fail, ok, type Result } from '../kit/errors.ts'

const PATTERN = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** What a VM without a UUID sends: 16 zero bytes. */
export function nilUuid(): Uint8Array {
  return new Uint8Array(16)
}

/** Parses `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, upper or lower case. */
export function parseUuid(text: string): Result<Uint8Array> {
  if (!PATTERN.test(text)) {
    return fail(
      'ERR_MULTIFD_HANDSHAKE',
      `the UUID ${JSON.stringify(text.slice(0, 64))} is not of the form ` +
        'xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx with hexadecimal digits',
    )
  }
  const digits = text.replaceAll('-', '')
  return ok(
    Uint8Array.from({ length: 16 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16)),
  )
}

/** @throws RangeError if it is not 16 bytes */
export function formatUuid(uuid: Uint8Array): string {
  if (uuid.length !== 16) throw new RangeError(`expected a UUID of 16 bytes, got ${uuid.length}`)
  const digits = Array.from(uuid, (byte) => byte.toString(16).padStart(2, '0')).join('')
  const groups = [
    digits.slice(0, 8),
    digits.slice(8, 12),
    digits.slice(12, 16),
    digits.slice(16, 20),
  ]
  return [...groups, digits.slice(20)].join('-')
}

export function sameUuid(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}
