// The reader of the main stream against the writer, against every split, and against everything
// that is not a stream.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import { encodeOwnStream, eventsOf, ownStream, smallStream } from './own-stream.ts'
import { cutAt, fingerprint, readByteByByte, readPieces, readWhole } from './reading.ts'

describe('a stream of our own', () => {
  it('comes back as the events it was written from', () => {
    fc.assert(
      fc.property(ownStream, (stream) => {
        const outcome = readWhole(encodeOwnStream(stream))
        expect(outcome.error).toBeUndefined()
        expect(outcome.events).toEqual(eventsOf(stream))
        expect(outcome.end).toEqual({ vmdescription: true, committed: true })
      }),
      { numRuns: 150 },
    )
  })

  it('gives the same events however it is split', () => {
    fc.assert(
      fc.property(ownStream, fc.array(fc.nat(12_000), { maxLength: 30 }), (stream, cuts) => {
        const bytes = encodeOwnStream(stream)
        const whole = fingerprint(readWhole(bytes))
        expect(fingerprint(readPieces(cutAt(bytes, cuts)))).toBe(whole)
        expect(fingerprint(readByteByByte(bytes))).toBe(whole)
      }),
      { numRuns: 60 },
    )
  })

  it('is complete from EOF on, between elements, and nowhere else', () => {
    const bytes = encodeOwnStream(smallStream)
    const commitAt = bytes.length - 5
    const text = JSON.stringify(readWhole(bytes).events.find((e) => e.kind === 'vmdescription'))
    const jsonBytes = JSON.parse(text).text.length
    const eofEnd = commitAt - jsonBytes - 5
    const legal = new Set([eofEnd, commitAt, bytes.length])
    const stepwise = new MainStreamReader()
    for (let length = 0; length <= bytes.length; length++) {
      const fresh = readWhole(bytes.subarray(0, length))
      expect(fresh.error).toBeUndefined()
      if (length > 0) stepwise.push(bytes.subarray(length - 1, length))
      expect(stepwise.end().ok).toBe(legal.has(length))
      if (legal.has(length)) expect(fresh.end).toHaveProperty('committed', length === bytes.length)
      else expect(fresh.end).toMatch(new RegExp(`^ERR_MULTIFD_PEER_CLOSED .* byte ${length} while`))
    }
  })

  it('never reads the same after any byte of it was changed', () => {
    const bytes = encodeOwnStream(smallStream)
    const right = fingerprint(readWhole(bytes))
    for (let at = 0; at < bytes.length; at++) {
      for (const flip of [1, 2, 4, 8, 16, 32, 64, 128, 255]) {
        const bad = bytes.slice()
        bad[at] = (bytes[at] ?? 0) ^ flip
        expect(fingerprint(readWhole(bad)) === right, `byte ${at} flipped by ${flip}`).toBe(false)
      }
    }
  })

  it('fails the same way however a damaged one is split', () => {
    const bytes = encodeOwnStream(smallStream)
    fc.assert(
      fc.property(
        fc.nat(bytes.length - 1),
        fc.integer({ min: 1, max: 255 }),
        fc.array(fc.nat(bytes.length), { maxLength: 20 }),
        (at, flip, cuts) => {
          const bad = bytes.slice()
          bad[at] = (bytes[at] ?? 0) ^ flip
          const whole = fingerprint(readWhole(bad))
          expect(fingerprint(readPieces(cutAt(bad, cuts)))).toBe(whole)
          expect(fingerprint(readByteByByte(bad))).toBe(whole)
        },
      ),
      { numRuns: 300 },
    )
  })
})

describe('bytes that are no stream', () => {
  it('never make the reader throw or loop, at any point of a stream', () => {
    const bytes = encodeOwnStream(smallStream)
    fc.assert(
      fc.property(
        fc.nat(bytes.length),
        fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 4 }),
        (length, noise) => {
          const outcome = readPieces([bytes.subarray(0, length), ...noise])
          if (outcome.error !== undefined)
            expect(outcome.error).toMatch(/^ERR_MULTIFD_[A-Z_]+ main/)
        },
      ),
      { numRuns: 2000 },
    )
  })

  it('leave the reader failed with its first error, whatever follows', () => {
    const reader = new MainStreamReader()
    const first = reader.push(new TextEncoder().encode('GET / HTTP/1.1\r\n'))
    const second = reader.push(encodeOwnStream(smallStream))
    expect(second.events).toEqual([])
    expect(second.error).toBe(first.error)
    expect(reader.end()).toEqual({ ok: false, error: first.error })
  })
})
