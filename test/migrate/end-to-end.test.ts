// Whole migrations inside this process, of a guest that never stops writing: every page must
// arrive, by every tracker, over every kind of memory, with and without zero-copy.

import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { MigrationSourceOptions, RamBlockOptions } from '../../src/index.ts'
import { testSeed } from '../support/pages.ts'
import { wasmMemory } from '../support/wasm-memory.ts'
import { migrateWritingGuest } from '../support/writing-guest.ts'

const MIB = 1024 * 1024
const seed = testSeed()

function wasmBlock(sizeBytes: number): RamBlockOptions {
  const memory = wasmMemory(sizeBytes + 65536)
  return { idstr: 'ram', wasmMemory: memory, offsetBytes: 65536, sizeBytes }
}

describe('a guest under a full-speed writer', () => {
  it('arrives whole: 1 GiB of anonymous memory', async () => {
    const block = { idstr: 'ram', sizeBytes: 1024 * MIB }
    const options = { multifdChannels: 2 }
    const { result } = await migrateWritingGuest({ from: block, to: block, options, seed })
    expect(result.normalPages).toBeGreaterThan((1024 * MIB) / 4096 / 2)
  })

  const sizeBytes = 32 * MIB
  const kinds: Record<string, () => RamBlockOptions> = {
    'anonymous memory': () => ({ idstr: 'ram', sizeBytes }),
    'small pages': () => ({ idstr: 'ram', sizeBytes, hugePages: false }),
    memfd: () => ({ idstr: 'ram', memfd: true, sizeBytes }),
    file: () => ({
      idstr: 'ram',
      path: join(tmpdir(), `multifd-test-${process.pid}-${fileNumber++}`),
      sizeBytes,
    }),
    'WebAssembly memory': () => wasmBlock(sizeBytes),
  }
  let fileNumber = 0
  const ways: Partial<MigrationSourceOptions>[] = [
    { dirty: 'userfaultfd', zeroCopy: 'off', multifdChannels: 1 },
    { dirty: 'userfaultfd', zeroCopy: 'on', multifdChannels: 4 },
    { dirty: 'userfaultfd', zeroCopy: 'on', engine: 'io-uring', multifdChannels: 2 },
    { dirty: 'userfaultfd', zeroCopy: 'auto', engine: 'io-uring', multifdChannels: 4 },
    { dirty: 'hash', zeroCopy: 'off', multifdChannels: 4 },
  ]
  for (const [kind, block] of Object.entries(kinds)) {
    for (const way of ways) {
      it(`arrives whole: ${kind}, ${Object.values(way).join(', ')} channels`, async () => {
        const from = block()
        const to = block()
        try {
          const { result } = await migrateWritingGuest({ from, to, options: way, seed })
          expect(result.dirtyTracker).toBe(way.dirty)
          expect(result.zeroCopy).toBe(way.zeroCopy)
          expect(result.channels).toHaveLength(way.multifdChannels as number)
        } finally {
          for (const side of [from, to]) if ('path' in side) rmSync(side.path, { force: true })
        }
      })
    }
  }
})
