// The run state in a stored device tail: found by the lengths of the vmdescription, whatever else
// looks like it.

import { describe, expect, it } from 'vitest'
import { withPausedGuest } from '../../src/snapshot/global-state.ts'
import { be32, concatBytes, encodeCounted, encodeText } from '../../src/wire/bytes.ts'
import { encodeEof, encodeVmdescription } from '../../src/wire/main-stream-writer.ts'
import { contentsOf } from '../support/vector-snapshot.ts'

interface Section {
  name: string
  payload: Uint8Array
  id: number
  footerId?: number
}

function runState(text: string, bytes = 104): Uint8Array {
  const payload = new Uint8Array(bytes)
  payload.set(concatBytes(be32(text.length + 1), encodeText(text)))
  return payload
}

function encode({ name, payload, id, footerId = id }: Section): Uint8Array {
  const head = concatBytes(Uint8Array.of(4), be32(id), encodeCounted('section', name))
  return concatBytes(head, be32(0), be32(1), payload, Uint8Array.of(0x7e), be32(footerId))
}

/** A device tail of these sections, described as they are. */
function tailOf(sections: readonly Section[]): Uint8Array {
  const devices = sections.map(({ name, payload }) => {
    return { name, instance_id: 0, fields: [{ name: 'data', size: payload.length }] }
  })
  const text = JSON.stringify({ page_size: 4096, devices })
  return concatBytes(...sections.map(encode), encodeEof(), encodeVmdescription(text))
}

const state = { name: 'globalstate', payload: runState('running'), id: 30 }

describe('a device tail', () => {
  it('is changed in its globalstate alone, though another device holds a copy of one', () => {
    const decoy = { name: 'disk', payload: encode(state), id: 5 }
    const after = { name: 'slirp', payload: encode({ ...state, id: 31 }), id: 6 }
    const tail = tailOf([decoy, state, after])
    const before = Uint8Array.from(tail)
    const paused = withPausedGuest(tail)
    if (!paused.ok) throw paused.error
    const expected = tailOf([decoy, { ...state, payload: runState('paused') }, after])
    expect(Buffer.from(paused.value).equals(expected)).toBe(true)
    expect(Buffer.from(tail).equals(before)).toBe(true)
  })

  it.each(['q72-legacy-none', 'q72-legacy-none-3ch-slow', 'q102-modern-returnpath'])(
    'of %s can be paused, and again',
    (vector) => {
      const { tail } = contentsOf(vector)
      const once = withPausedGuest(tail)
      if (!once.ok) throw once.error
      const changed = once.value.filter((byte, index) => byte !== tail[index]).length
      expect(changed).toBeGreaterThan(0)
      expect(changed).toBeLessThan(12)
      expect(withPausedGuest(once.value)).toEqual(once)
    },
  )

  const refused: [string, Section[], RegExp][] = [
    ['has none', [{ name: 'cpu', payload: runState('running'), id: 1 }], /there is none/],
    ['has a longer one', [{ ...state, payload: runState('running', 105) }], /not of the form/],
    ['has one with another footer', [{ ...state, footerId: 7 }], /not of the form/],
    ['has one of no text', [{ ...state, payload: new Uint8Array(104) }], /not of the form/],
    [
      'has one whose text goes on',
      [{ ...state, payload: runState('running').fill(65, 4) }],
      /not of the form/,
    ],
  ]
  it.each(refused)('that %s is refused', (_name, sections, sentence) => {
    const outcome = withPausedGuest(tailOf(sections))
    if (outcome.ok) throw new Error('it was changed')
    expect(outcome.error).toMatchObject({ code: 'ERR_MULTIFD_UNSUPPORTED' })
    expect(outcome.error.message).toMatch(sentence)
    expect(outcome.error.message).toMatch(/start the QEMU that receives it with -S instead/)
  })

  it('without a vmdescription, or with one of other lengths, is refused', () => {
    const tail = tailOf([state])
    const end = encode(state).length + 1
    for (const bytes of [tail.subarray(0, end), tail.subarray(1), new Uint8Array(0)]) {
      expect(withPausedGuest(bytes)).toMatchObject({
        ok: false,
        error: { message: expect.stringMatching(/no vmdescription/) },
      })
    }
  })
})
