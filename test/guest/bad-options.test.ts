// Bad options of guest memory are refused at once and by name: every option of every kind of block
// and of the dirty log, unset, of a wrong type, out of range, misspelt, and of another kind.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { DirtyLog } from '../../src/guest/dirty-tracker.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { native } from '../../src/kit/native.ts'

declare const WebAssembly: { Memory: new (size: { initial: number }) => { buffer: ArrayBuffer } }

const folder = mkdtempSync(join(tmpdir(), 'multifd-options-'))
const before = native().census()
const memory = GuestMemory.openMemfd('guest.ram', 65536)
const own = native().census()
const { buffer } = new WebAssembly.Memory({ initial: 1 })

afterAll(async () => {
  await memory.close()
  rmSync(folder, { recursive: true })
  expect(native().census()).toEqual(before)
})

/** [what is wrong, the blocks, the error's class, what its sentence names] */
type Bad = [string, unknown, typeof Error, RegExp]

describe('GuestMemory refuses', () => {
  const block = { idstr: 'a', sizeBytes: 4096 }
  const wasm = { ...block, wasmMemory: { buffer }, offsetBytes: 0 }
  const bad: Bad[] = [
    ['no list', block, TypeError, /GuestMemory.of needs an array of blocks/],
    ['no blocks', [], RangeError, /number of RAM blocks .* from 1 to/],
    ['null for a block', [null], TypeError, /a RAM block needs an object of options, got null/],
    ['no name', [{ sizeBytes: 4096 }], TypeError, /idstr must be a string, got undefined/],
    ['an empty name', [{ ...block, idstr: '' }], RangeError, /idstr must be 1 to 255 bytes/],
    ['a name too long', [{ ...block, idstr: 'x'.repeat(256) }], RangeError, /256 bytes/],
    ['a name with NUL', [{ ...block, idstr: 'a\0' }], RangeError, /without NUL/],
    ['no size', [{ idstr: 'a' }], RangeError, /sizeBytes must be a whole number .* got undefined/],
    ['a size of 0', [{ ...block, sizeBytes: 0 }], RangeError, /sizeBytes .* got 0/],
    [
      'half a page',
      [{ ...block, sizeBytes: 2048 }],
      RangeError,
      /sizeBytes must be a multiple of 4096/,
    ],
    ['a negative size', [{ ...block, sizeBytes: -4096 }], RangeError, /sizeBytes .* got -4096/],
    ['a size as text', [{ ...block, sizeBytes: '4096' }], RangeError, /sizeBytes .* got "4096"/],
    ['a misspelt option', [{ ...block, hugePage: true }], TypeError, /no option "hugePage"/],
    [
      'hugePages as number',
      [{ ...block, hugePages: 1 }],
      TypeError,
      /hugePages must be true or false/,
    ],
    ['memfd: false', [{ ...block, memfd: false }], TypeError, /memfd must be true/],
    [
      'two kinds at once',
      [{ ...block, memfd: true, path: '/x' }],
      TypeError,
      /memfd has no option "path"/,
    ],
    [
      'huge pages in a file',
      [{ ...block, path: '/x', hugePages: true }],
      TypeError,
      /path has no option/,
    ],
    [
      'an offset in a memfd',
      [{ ...block, memfd: true, offsetBytes: 0 }],
      TypeError,
      /memfd has no/,
    ],
    [
      'a path of bytes',
      [{ ...block, path: new Uint8Array(4) }],
      TypeError,
      /path must be a string/,
    ],
    ['an empty path', [{ ...block, path: '' }], TypeError, /path must name a file/],
    ['a path with NUL', [{ ...block, path: '/tmp/a\0b' }], TypeError, /path must name a file/],
    [
      'no wasmMemory',
      [{ ...wasm, wasmMemory: undefined }],
      TypeError,
      /wasmMemory must be a WebAss/,
    ],
    [
      'shared WebAssembly memory',
      [{ ...wasm, wasmMemory: { buffer: new SharedArrayBuffer(4096) } }],
      TypeError,
      /not shared/,
    ],
    [
      'no offset',
      [{ ...wasm, offsetBytes: undefined }],
      RangeError,
      /offsetBytes .* got undefined/,
    ],
    [
      'an offset off a page',
      [{ ...wasm, offsetBytes: 1 }],
      RangeError,
      /offsetBytes must be a mult/,
    ],
    ['a block beyond its memory', [{ ...wasm, offsetBytes: 65536 }], Error, /does not fit/],
    ['two blocks of one name', [block, block], Error, /two RAM blocks are named "a"/],
    [
      'blocks that share memory',
      [wasm, { ...wasm, idstr: 'b' }],
      Error,
      /"a" and "b" share memory/,
    ],
    ['a folder as file', [{ ...block, path: folder }], Error, /cannot open memory file/],
    ['more than there is', [{ ...block, sizeBytes: 2 ** 50 }], Error, /at most 64 TiB/],
  ]
  it.each(bad)('%s', (_name, blocks, kind, sentence) => {
    const make = (): unknown => GuestMemory.of(blocks as never)
    expect(make).toThrow(kind)
    expect(make).toThrow(sentence)
    expect(native().census()).toEqual(own)
  })

  it('misspelt options of its short forms', () => {
    const allocate = (options: unknown) => () => GuestMemory.allocate('a', 4096, options as never)
    expect(allocate({ hugepages: true })).toThrow(/GuestMemory.allocate has no option "hugepages"/)
    expect(allocate({ path: '/tmp/x' })).toThrow(/GuestMemory.allocate has no option "path"/)
    const range = { offsetBytes: 0, sizeBytes: 4096, idstr: 'b' }
    expect(() => GuestMemory.fromWasm('a', { buffer }, range)).toThrow(
      /fromWasm has no option "idstr"/,
    )
    expect(() => GuestMemory.fromWasm('a', { buffer }, undefined as never)).toThrow(
      /needs an object/,
    )
    for (const token of [0, -1, 1.5, '1', undefined]) {
      expect(() => GuestMemory.fromToken(token as number)).toThrow(/token must be a whole number/)
    }
    expect(() => GuestMemory.fromToken(2 ** 40)).toThrow(/names no guest memory/)
  })

  it('ranges that are not in it', () => {
    expect(() => memory.view('vga')).toThrow(/no RAM block "vga"; this memory has "guest.ram"/)
    const discard = (offset: unknown, size: unknown) => () =>
      memory.discard('guest.ram', offset as number, size as number)
    expect(discard(1, 4096)).toThrow(/offsetBytes must be a multiple of 4096, got 1/)
    expect(discard(0, 4095)).toThrow(/sizeBytes must be a multiple of 4096, got 4095/)
    expect(discard(65536, 4096)).toThrow(/sizeBytes must be a whole number from 0 to 0, got 4096/)
    expect(discard(-4096, 4096)).toThrow(/offsetBytes .* got -4096/)
    expect(discard(undefined, 4096)).toThrow(/offsetBytes .* got undefined/)
    expect(discard(Number.NaN, 4096)).toThrow(RangeError)
  })
})

describe('DirtyLog refuses', () => {
  const log = new DirtyLog(memory)
  const wrong: [string, () => void, typeof Error, RegExp][] = [
    ['no memory', () => new DirtyLog({} as never), TypeError, /a DirtyLog needs a GuestMemory/],
    ['an unknown block', () => log.mark('vga', 0, 1), RangeError, /no RAM block "vga"/],
    [
      'a mark behind the end',
      () => log.mark('guest.ram', 65536, 1),
      RangeError,
      /sizeBytes .* 0 to 0/,
    ],
    ['a mark before it', () => log.mark('guest.ram', -1, 1), RangeError, /offsetBytes .* got -1/],
    ['half a byte', () => log.mark('guest.ram', 0, 0.5), RangeError, /sizeBytes .* got 0.5/],
    [
      'a bitmap off a page',
      () => log.orBitmap('guest.ram', 1, Uint8Array.of(1)),
      RangeError,
      /multiple/,
    ],
    [
      'a bitmap too long',
      () => log.orBitmap('guest.ram', 0, new Uint8Array(3)),
      RangeError,
      /0 to 2/,
    ],
    [
      'a bitmap of words',
      () => log.orBitmap('guest.ram', 0, [1] as never),
      TypeError,
      /Uint8Array/,
    ],
  ]
  it.each(wrong)('%s', (_name, call, kind, sentence) => {
    expect(call).toThrow(kind)
    expect(call).toThrow(sentence)
  })
})
