// GuestMemory: every kind of it, what it gives out and takes back. Bad options have a test of their
// own.

import { constants } from 'node:buffer'
import { existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { GuestMemory, MigrationDestination, MigrationSource } from '../../src/index.ts'
import { native } from '../../src/kit/native.ts'
import { failure, idleVmm, migrateOnce } from '../support/migration.ts'
import { expectSamePages, fillPages } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { wasmMemory } from '../support/wasm-memory.ts'

const MIB = 1024 * 1024
const path = join(tmpdir(), `multifd-test-memory-${process.pid}`)
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => {
  rmSync(path, { force: true })
  expectNothingLeft(before)
})

const kinds: Record<string, (sizeBytes: number) => GuestMemory> = {
  'anonymous, huge pages': (sizeBytes) => GuestMemory.allocate('ram', sizeBytes),
  'anonymous, small pages': (sizeBytes) =>
    GuestMemory.allocate('ram', sizeBytes, { hugePages: false }),
  memfd: (sizeBytes) => GuestMemory.openMemfd('ram', sizeBytes),
  file: (sizeBytes) => GuestMemory.openFile('ram', path, sizeBytes),
  WebAssembly: (sizeBytes) =>
    GuestMemory.fromWasm('ram', wasmMemory(sizeBytes + 65536), { offsetBytes: 65536, sizeBytes }),
}

describe.each(Object.entries(kinds))('%s', (kind, make) => {
  it('reads as zero, keeps what is written, and forgets what is discarded', async () => {
    await using memory = make(4 * MIB)
    const view = memory.view('ram')
    expect(view.length).toBe(4 * MIB)
    expect(view.every((byte) => byte === 0)).toBe(true)
    view.fill(7)
    memory.discard('ram', MIB, 2 * MIB)
    expect([view[MIB - 1], view[MIB], view[3 * MIB - 1], view[3 * MIB]]).toEqual([7, 0, 0, 7])
    expect(memory.view('ram')).toBe(view)
    expect(memory.totalBytes).toBe(4 * MIB)
    expect(memory.blocks).toEqual([{ idstr: 'ram', usedLength: 4 * MIB }])
    expect(Object.isFrozen(memory.blocks)).toBe(true)
  })

  it('counts what was touched', async () => {
    await using memory = make(64 * MIB)
    const untouched = await memory.populatedBytes()
    memory.view('ram').fill(1, 16 * MIB, 24 * MIB)
    const touched = await memory.populatedBytes()
    expect(touched - untouched).toBeGreaterThanOrEqual(8 * MIB)
    expect(touched).toBeLessThan(64 * MIB)
    if (kind !== 'anonymous, huge pages') expect(touched - untouched).toBe(8 * MIB)
  })

  it('is closed for good: views are detached, calls are refused, twice is once', async () => {
    const memory = make(MIB)
    const view = memory.view('ram')
    const { buffer } = view
    await memory.close()
    await memory.close()
    if (kind !== 'WebAssembly') expect(buffer.byteLength).toBe(0)
    expect(() => memory.view('ram')).toThrow('the guest memory was closed')
    expect(() => memory.discard('ram', 0, 4096)).toThrow('the guest memory was closed')
    expect((await failure(memory.populatedBytes())).code).toBe('ERR_MULTIFD_CLOSED')
    const refused = 'the guest memory was closed'
    expect(() => new MigrationSource({ memory, vmm: idleVmm })).toThrow(refused)
    const listening = MigrationDestination.listen(`unix:${path}.sock`, { memory })
    await expect(listening).rejects.toThrow(refused)
    expect(existsSync(`${path}.sock`)).toBe(false)
  })
})

describe('files', () => {
  it('are created, extended sparsely, never shortened, and keep what is written', async () => {
    writeFileSync(path, 'before')
    const memory = GuestMemory.openFile('ram', path, 4 * MIB)
    expect(Buffer.from(memory.view('ram').subarray(0, 6)).toString()).toBe('before')
    memory.view('ram')[MIB] = 42
    await memory.close()
    expect(statSync(path).size).toBe(4 * MIB)
    expect(statSync(path).blocks * 512).toBeLessThan(MIB)
    await using smaller = GuestMemory.openFile('ram', path, 2 * MIB)
    expect(smaller.view('ram')[MIB]).toBe(42)
    expect(statSync(path).size).toBe(4 * MIB)
  })

  it('that are read-only must be there, and stay as they are', async () => {
    writeFileSync(path, 'before')
    truncateSync(path, 2 * MIB)
    const block = { idstr: 'ram', path, sizeBytes: 2 * MIB, readOnly: true }
    await using memory = GuestMemory.of([block])
    const unsupported = expect.objectContaining({ code: 'ERR_MULTIFD_UNSUPPORTED' })
    expect(() => memory.view('ram')).toThrow(unsupported)
    const state = expect.objectContaining({ code: 'ERR_MULTIFD_STATE' })
    expect(() => memory.discard('ram', 0, 4096)).toThrow(state)
    expect(readFileSync(path, { encoding: 'latin1' }).slice(0, 6)).toBe('before')
    const longer = { ...block, sizeBytes: 4 * MIB }
    expect(() => GuestMemory.of([longer])).toThrow('has 2097152 bytes, expected at least 4194304')
    expect(statSync(path).size).toBe(2 * MIB)
  })

  it('that cannot be had are an error with the kernel’s reason', () => {
    const nowhere = join(path, 'missing', 'ram')
    expect(() => GuestMemory.openFile('ram', nowhere, MIB)).toThrow(/missing.*ENOENT/)
    expect(() => GuestMemory.openFile('ram', '/dev/null', MIB)).toThrow('not a regular file')
  })
})

describe('a block larger than a view', () => {
  it('can be had, but not viewed: the error says so, and the process lives', async () => {
    const sizeBytes = constants.MAX_LENGTH + 4096
    if (sizeBytes > 2 ** 46) return // a Node whose views hold whatever can be mapped
    await using memory = GuestMemory.openMemfd('ram', sizeBytes)
    expect(() => memory.view('ram')).toThrow(RangeError)
    expect(() => memory.view('ram')).toThrow(`has ${sizeBytes} bytes, and a view of this Node`)
    memory.discard('ram', sizeBytes - 4096, 4096)
    expect(await memory.populatedBytes()).toBe(0)
  })

  it('is the limit: the largest view reaches its last byte', async () => {
    const sizeBytes = Math.min(constants.MAX_LENGTH, 2 ** 33)
    await using memory = GuestMemory.openMemfd('ram', sizeBytes)
    const view = memory.view('ram')
    view[sizeBytes - 1] = 1
    expect(view.length).toBe(sizeBytes)
    expect(await memory.populatedBytes()).toBe(4096)
  })
})

describe('several blocks', () => {
  it('may not overlap, share a name, or leave their memory', () => {
    const memory = wasmMemory(4 * MIB)
    const at = (idstr: string, offsetBytes: number, sizeBytes: number) => ({
      idstr,
      wasmMemory: memory,
      offsetBytes,
      sizeBytes,
    })
    const make = (...blocks: ReturnType<typeof at>[]) => GuestMemory.of(blocks)
    expect(() => make(at('a', 0, 2 * MIB), at('b', MIB, MIB))).toThrow('"a" and "b" share memory')
    expect(() => make(at('a', 0, MIB), at('a', MIB, MIB))).toThrow('"a"')
    expect(() => make(at('a', MIB, 4 * MIB))).toThrow("does not fit the memory's 4194304 bytes")
  })

  it('may lie side by side in one WebAssembly.Memory, which may grow', async () => {
    const memory = wasmMemory(4 * MIB, 8 * MIB)
    await using from = GuestMemory.of([
      { idstr: 'low', wasmMemory: memory, offsetBytes: 0, sizeBytes: MIB },
      { idstr: 'high', wasmMemory: memory, offsetBytes: MIB, sizeBytes: 3 * MIB },
    ])
    await using to = GuestMemory.of([
      { idstr: 'low', sizeBytes: MIB },
      { idstr: 'high', sizeBytes: 3 * MIB },
    ])
    memory.grow(8)
    const whole = new Uint8Array(memory.buffer)
    fillPages(whole, 3)
    await migrateOnce({ from, to })
    expectSamePages(to.view('low'), whole.subarray(0, MIB))
    expectSamePages(to.view('high'), whole.subarray(MIB, 4 * MIB))
  })
})

describe('close', () => {
  it('of the source’s memory ends the migration that uses it', async () => {
    const from = GuestMemory.allocate('ram', 32 * MIB)
    await using to = GuestMemory.allocate('ram', 32 * MIB)
    fillPages(from.view('ram'), 1)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    const source = new MigrationSource({
      memory: from,
      vmm: idleVmm,
      maxBandwidthBytesPerSecond: 16 * MIB,
    })
    const migration = source.migrate(destination.uri)
    for await (const { transferredBytes } of migration) if (transferredBytes > MIB) break
    await from.close()
    const error = await failure(migration.result)
    expect(error.code).toBe('ERR_MULTIFD_CLOSED')
    expect((await failure(destination.completed)).code).toBe('ERR_MULTIFD_PEER_CLOSED')
    expect(native().census().threads).toBe(0)
  })

  it('of the destination’s memory ends the migration that uses it', async () => {
    await using from = GuestMemory.allocate('ram', 32 * MIB)
    const to = GuestMemory.allocate('ram', 32 * MIB)
    fillPages(from.view('ram'), 1)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    const source = new MigrationSource({
      memory: from,
      vmm: idleVmm,
      maxBandwidthBytesPerSecond: 16 * MIB,
    })
    const migration = source.migrate(destination.uri)
    for await (const { transferredBytes } of migration) if (transferredBytes > MIB) break
    await to.close()
    expect((await failure(destination.completed)).code).toBe('ERR_MULTIFD_CLOSED')
    expect((await failure(migration.result)).code).toMatch(/PEER_CLOSED|CHANNEL/)
  })
})
