// Words of consecutive pages come out of the reader as runs: one event, one native call.

import { describe, expect, it } from 'vitest'
import { concatBytes } from '../../src/wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../../src/wire/configuration.ts'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import { encodeRamSectionStart } from '../../src/wire/main-stream-writer.ts'
import { encodeEosWord, encodeMemSizeWord, RamPageWords } from '../../src/wire/ram-words.ts'

const PAGE = 4096
const blocks = [
  { idstr: 'low', usedLength: 4 * PAGE },
  { idstr: 'high', usedLength: 0x1_0000_0000 + 4 * PAGE },
]
const opening = concatBytes(
  encodeHeader(),
  encodeConfiguration({ machineName: 'pc-q35-7.2', capabilities: [] }),
)
const start = concatBytes(encodeRamSectionStart(2), encodeMemSizeWord(blocks))

type Run = [kind: string, idstr: string, offset: number, pages: number]

/** The runs that come of these words, pushed in these pieces. */
function runsOf(...pieces: Uint8Array[]): Run[] {
  const reader = new MainStreamReader()
  const runs: Run[] = []
  for (const piece of [opening, start, ...pieces]) {
    const { events, error } = reader.push(piece)
    if (error !== undefined) throw error
    for (const event of events) {
      if (event.kind === 'ram-zero') runs.push(['zero', event.idstr, event.offset, event.pages])
      if (event.kind === 'ram-page') {
        runs.push(['page', event.idstr, event.offset, event.contents.length / PAGE])
      }
    }
  }
  return runs
}

const page = (fill: number): Uint8Array => new Uint8Array(PAGE).fill(fill)

describe('a run of words', () => {
  it('is one event, for zero pages and for contents, in the right order', () => {
    const words = new RamPageWords()
    const bytes = concatBytes(
      words.zero('low', 0),
      words.zero('low', PAGE),
      words.page('low', 2 * PAGE, page(1)),
      words.page('low', 3 * PAGE, page(2)),
      encodeEosWord(),
    )
    const reader = new MainStreamReader()
    const { events } = reader.push(concatBytes(opening, start, bytes))
    expect(events.slice(-3)).toEqual([
      { kind: 'ram-zero', idstr: 'low', offset: 0, pages: 2 },
      {
        kind: 'ram-page',
        idstr: 'low',
        offset: 2 * PAGE,
        contents: concatBytes(page(1), page(2)),
      },
      { kind: 'ram-eos' },
    ])
  })

  it('ends at a gap, at another block, and at a name said again', () => {
    const words = new RamPageWords()
    const named = new RamPageWords().zero('low', 3 * PAGE)
    const bytes = concatBytes(
      words.zero('low', 0),
      words.zero('low', 2 * PAGE),
      named,
      words.zero('high', 0),
      words.zero('high', PAGE),
    )
    expect(runsOf(bytes)).toEqual([
      ['zero', 'low', 0, 1],
      ['zero', 'low', 2 * PAGE, 1],
      ['zero', 'low', 3 * PAGE, 1],
      ['zero', 'high', 0, 2],
    ])
  })

  it('crosses 4 GiB, and ends where its bytes do', () => {
    const words = new RamPageWords()
    const from = 0x1_0000_0000 - 2 * PAGE
    const list = Array.from({ length: 4 }, (_, i) => words.page('high', from + i * PAGE, page(i)))
    const bytes = concatBytes(...list)
    expect(runsOf(bytes)).toEqual([['page', 'high', from, 4]])
    expect(runsOf(bytes.subarray(0, -1), bytes.subarray(-1))).toEqual([
      ['page', 'high', from, 3],
      ['page', 'high', from + 3 * PAGE, 1],
    ])
  })

  it('does not hide a page outside its block, or a fill byte that is not zero', () => {
    const words = new RamPageWords()
    const beyond = concatBytes(words.zero('low', 3 * PAGE), words.zero('low', 4 * PAGE))
    expect(() => runsOf(beyond)).toThrow(/0x4000 is outside RAM block "low"/)
    const again = new RamPageWords()
    const filled = concatBytes(again.zero('low', 0), again.zero('low', PAGE))
    filled[filled.length - 1] = 7
    expect(() => runsOf(filled)).toThrow(/filled with 0x07/)
  })
})

describe('the opening of a stream', () => {
  it('is measured to the byte, however it is split', () => {
    for (const pieces of [[concatBytes(opening, start)], [opening, start]]) {
      const reader = new MainStreamReader()
      expect(reader.openingBytes).toBeUndefined()
      for (const piece of pieces) reader.push(piece)
      expect(reader.openingBytes).toBe(opening.length)
    }
  })
})
