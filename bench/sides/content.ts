// What the pages of a comparison's guest hold: random bytes, which nothing shortens, words as in
// logs and sources, or both; and zeros, where a share of zero pages is asked for. It knows nothing
// of where the bytes go.
import { randomFillSync } from 'node:crypto'
import type { GuestPlan } from './side-options.ts'

const PAGE_BYTES = 4096
const WORDS = [
  ...[
    'the',
    'of',
    'and',
    'to',
    'in',
    'is',
    'error',
    'return',
    'value',
    'request',
    'server',
    'const',
  ],
  ...[
    'connection',
    'memory',
    'page',
    'if (',
    ') {\n',
    '}\n',
    ' = ',
    '0x',
    '127.0.0.1',
    'GET /index',
  ],
  ...['user', 'time', 'status', '"id": ', '"name": ', 'null', 'true', '\n  ', '2026-', 'migration'],
]

/** Bytes to tile a guest with, whole pages. */
export function contentOf(
  content: NonNullable<GuestPlan['content']>,
  bytes: number,
  zeroPercent: number,
): Uint8Array<ArrayBuffer> {
  const tile = content === 'text' ? text(bytes) : randomFillSync(new Uint8Array(bytes))
  const words = content === 'mixed' ? text(bytes) : tile
  for (let page = 0; page < bytes / PAGE_BYTES; page++) {
    const [from, to] = [page * PAGE_BYTES, (page + 1) * PAGE_BYTES]
    if (page % 2 === 1) tile.set(words.subarray(from, to), from)
    if (isZeroPage(page, zeroPercent)) tile.fill(0, from, to)
  }
  return tile
}

/** Spreads the zero pages evenly: of any 100 pages that follow each other, `percent` are zero. */
export function isZeroPage(page: number, percent: number): boolean {
  return (page * 37) % 100 < percent
}

// Words in random order, with numbers between them: about what log files and sources compress to.
function text(bytes: number): Uint8Array<ArrayBuffer> {
  const choices = randomFillSync(new Uint16Array(bytes / 4))
  const tile = Buffer.alloc(bytes)
  let at = 0
  for (let choice = 0; at < bytes; choice++) {
    const drawn = choices[choice % choices.length] ?? 0
    at += tile.write(`${WORDS[drawn % WORDS.length]} `, at, 'latin1')
    if (drawn % 7 === 0) at += tile.write(String(drawn), at, 'latin1')
  }
  return new Uint8Array(tile.buffer, tile.byteOffset, bytes)
}
