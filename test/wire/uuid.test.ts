// UUIDs as text and as bytes.

import fc from 'fast-check'
import { expect, it } from 'vitest'
import { formatUuid, nilUuid, parseUuid, sameUuid } from '../../src/wire/uuid.ts'

it('a UUID survives a round trip, and the bytes are in the order of the text', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (uuid) => {
      const parsed = parseUuid(formatUuid(uuid).toUpperCase())
      expect(parsed).toEqual({ ok: true, value: uuid })
      expect(sameUuid(uuid, uuid.slice())).toBe(true)
    }),
  )
  const bytes = Uint8Array.from({ length: 16 }, (_, i) => i)
  expect(formatUuid(bytes)).toBe('00010203-0405-0607-0809-0a0b0c0d0e0f')
  expect(formatUuid(nilUuid())).toBe('00000000-0000-0000-0000-000000000000')
  expect(sameUuid(bytes, nilUuid())).toBe(false)
})

it('text that is no UUID is refused by name', () => {
  for (const text of [
    '',
    '0001',
    '00010203-0405-0607-0809-0a0b0c0d0e0',
    'x0010203-0405-0607-0809-0a0b0c0d0e0f',
  ]) {
    const result = parseUuid(text)
    expect(result.ok ? 'accepted' : result.error.message).toContain(JSON.stringify(text))
  }
  expect(() => formatUuid(new Uint8Array(15))).toThrow(RangeError)
})
