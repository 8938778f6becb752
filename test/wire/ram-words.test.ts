// Words of the main channel that are made many at once are those that are made one by one.

import fc from 'fast-check'
import { expect, it } from 'vitest'
import { concatBytes } from '../../src/wire/bytes.ts'
import { RamPageWords } from '../../src/wire/ram-words.ts'

const runs = fc.array(
  fc.record({
    idstr: fc.constantFrom('pc.ram', '/rom@etc/acpi/tables'),
    // Beyond 4 GiB, where a word has two halves.
    firstPage: fc.oneof(
      fc.nat(300),
      fc.nat(200).map((page) => 2 ** 20 - 100 + page),
    ),
    pageCount: fc.integer({ min: 1, max: 200 }),
  }),
  { maxLength: 6 },
)

it('a run of zero pages is its pages one by one, the name left out where it repeats', () => {
  fc.assert(
    fc.property(runs, (list) => {
      const [together, single] = [new RamPageWords(), new RamPageWords()]
      for (const { idstr, firstPage, pageCount } of list) {
        const pages = Array.from({ length: pageCount }, (_, index) => (firstPage + index) * 4096)
        const expected = concatBytes(...pages.map((offset) => single.zero(idstr, offset)))
        const run = together.zeroRun(idstr, firstPage * 4096, pageCount)
        expect(Buffer.from(run).equals(expected)).toBe(true)
      }
    }),
  )
  expect(() => new RamPageWords().zeroRun('pc.ram', 1, 2)).toThrow(RangeError)
})
