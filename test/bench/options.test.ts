// Sizes and numbers on the benchmarks' command line.
import { InvalidArgumentError } from 'commander'
import { describe, expect, test } from 'vitest'
import { parseSize, wholeNumber } from '../../bench/options.ts'
import { formatBytes } from '../../bench/report.ts'

describe('sizes', () => {
  test.each([
    ['4096', 4096],
    ['64MiB', 64 * 2 ** 20],
    ['64M', 64 * 2 ** 20],
    ['4GiB', 4 * 2 ** 30],
    ['4gb', 4 * 2 ** 30],
    ['128 KiB', 128 * 2 ** 10],
  ])('%s is %i bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes)
  })

  test.each(['', '0', '4095', '4097', '-4096', '1TiB', '1.5GiB', 'MiB', '4096x', '9e30'])(
    '"%s" is refused',
    (text) => {
      expect(() => parseSize(text)).toThrow(InvalidArgumentError)
    },
  )

  test('are printed in the largest unit that fits', () => {
    expect(formatBytes(0)).toBe('0 B')
    expect(formatBytes(128 * 1024)).toBe('128 KiB')
    expect(formatBytes(1.5 * 2 ** 30)).toBe('1.5 GiB')
  })
})

test.each(['0', '65', '1.5', '', ' 1', '0x10', 'two'])('"%s" is no number of 1 to 64', (text) => {
  expect(() => wholeNumber(1, 64)(text)).toThrow('Expected a whole number from 1 to 64.')
})

test('whole numbers include both ends', () => {
  expect([wholeNumber(1, 64)('1'), wholeNumber(1, 64)('64')]).toEqual([1, 64])
})
