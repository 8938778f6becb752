// Amounts as people read them.

import { expect, it } from 'vitest'
import { formatBytes, formatMs } from '../../src/kit/format.ts'

it.each([
  [0, '0 bytes'],
  [1023.4, '1023 bytes'],
  [1024, '1.00 KiB'],
  [12.34 * 1024 ** 2, '12.3 MiB'],
  [1010 * 1024 ** 2, '1010 MiB'],
  [1.5 * 1024 ** 3, '1.50 GiB'],
  [5000 * 1024 ** 4, '5000 TiB'],
])('%d bytes are %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text)
})

it.each([
  [0, '0 ms'],
  [0.44, '0.4 ms'],
  [9.96, '10 ms'],
  [3100.4, '3100 ms'],
  [Number.POSITIVE_INFINITY, 'unknown'],
])('%d milliseconds are %s', (milliseconds, text) => {
  expect(formatMs(milliseconds)).toBe(text)
})
