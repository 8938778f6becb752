// Rounds of a memory over a compressed channel: random pages, changed again and again, arrive as
// they are at each SYNC, whatever the method, its level, the engine and the kind of memory.

import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { inflateSync, constants as zlib } from 'node:zlib'
import { beforeAll, describe, expect, it } from 'vitest'
import { packageRoot } from '../../src/kit/native.ts'
import { concatBytes } from '../../src/wire/bytes.ts'
import { expectSamePages, randomNumbers, testSeed } from '../support/pages.ts'
import { expectNothingLeft, held } from '../support/resources.ts'
import {
  collected,
  compressionsHere,
  Memory,
  type Method,
  Receiver,
  record,
  Sender,
} from './channels.ts'

const PAGES = 512
const seed = testSeed()

/** Fills a page: noise, text-like, one byte throughout, mostly zero, or zero. */
function fill(page: Uint8Array, random: () => number): void {
  const kind = Math.floor(random() * 5)
  const letters = 2 + Math.floor(random() * 30)
  const one = Math.floor(random() * 256)
  for (let at = 0; at < page.length; at += 1) {
    if (kind === 0) page[at] = random() * 256
    else if (kind === 1) page[at] = 97 + Math.floor(random() * letters)
    else if (kind === 2) page[at] = one
    else page[at] = kind === 3 && at % 97 === 0 ? random() * 256 : 0
  }
}

function pageOf(memory: Memory, page: number): Uint8Array {
  return memory.bytes.subarray(page * 4096, (page + 1) * 4096)
}

/** Writes some pages and says so. */
function change(memory: Memory, sender: Sender, random: () => number): void {
  for (let count = Math.floor(random() * 200); count > 0; count -= 1) {
    const page = Math.floor(random() * PAGES)
    fill(pageOf(memory, page), random)
    sender.mark(page)
  }
}

async function migrate(method: Method, to: 'anonymous' | 'memfd', rounds: number): Promise<void> {
  const random = randomNumbers(seed)
  using source = new Memory(PAGES * 4096)
  using destination = new Memory(PAGES * 4096, to)
  await using receiver = new Receiver(destination.native, method.compression, { hold: true })
  await using sender = new Sender(source, receiver.port, method)
  for (let page = 0; page < PAGES; page += 1) fill(pageOf(source, page), random)
  await sender.start()
  for (let round = 1; round <= rounds; round += 1) {
    await sender.round()
    await receiver.synced(round)
    expect(receiver.error).toBeUndefined()
    expectSamePages(destination.bytes, source.bytes)
    change(source, sender, random)
    receiver.release()
  }
  const { sentBytes, packets, normalPages } = sender.channel.counters
  if (method.compressionLevel !== 0 || method.compression === 'zstd') {
    expect(sentBytes).toBeLessThan(normalPages * 4096)
  }
  expect(sender.channel.engineReport.mode).toBe('plain')
  expect(packets).toBeGreaterThan(rounds)
  await sender.channel.close()
  await receiver.ended
  expect(receiver.error).toBeUndefined()
  expect(receiver.channels[0]?.counters.receivedBytes).toBe(sentBytes)
}

// What the process makes once, at its first migration, is there before anything is compared.
beforeAll(() => migrate({ compression: 'zlib' }, 'anonymous', 1))

const LEVELS = { zlib: [undefined, 0, 1, 6, 9], zstd: [undefined, 0, 1, 9, 20] }

describe.each(compressionsHere())('rounds compressed with %s', (compression) => {
  it.each(LEVELS[compression])('at level %s', async (compressionLevel) => {
    await collected()
    const before = held()
    const level = compressionLevel === undefined ? {} : { compressionLevel }
    await migrate({ compression, ...level }, 'anonymous', 6)
    await collected()
    expectNothingLeft(before)
  })

  it('at a level that it does not have are refused', () => {
    using memory = new Memory(4096)
    for (const compressionLevel of [-1, 21, 1e10, Number.NaN]) {
      const start = () => new Sender(memory, 1, { compression, compressionLevel })
      expect(start).toThrow(/got compression level .*, expected 0 to (9 for zlib|20 for zstd)/)
    }
  })
})

/** A guest in a thread of its own that never stops writing until it is stopped. */
function writer(memory: Memory): { stop: () => Promise<unknown> } {
  const stop = new SharedArrayBuffer(4)
  const program = `
    const { path, token, stop } = require('node:worker_threads').workerData
    const memory = require(path).guestMemoryFromToken(token)
    if (memory.detail) throw new Error(memory.detail)
    const view = memory.view(0)
    const bytes = new Uint8Array(view)
    const words = new Int32Array(stop)
    for (let n = 0; Atomics.load(words, 0) === 0; n = (n + 977) % bytes.length) {
      bytes[n] = bytes[(n * 31) % bytes.length] + n
    }
    memory.close([view])`
  const path = process.env.MULTIFD_NATIVE ?? join(packageRoot(), 'build/Release/multifd.node')
  const workerData = { path, token: memory.native.token, stop }
  const worker = new Worker(program, { eval: true, workerData })
  const ended = new Promise((resolve, reject) => worker.on('exit', resolve).on('error', reject))
  return {
    stop: () => {
      Atomics.store(new Int32Array(stop), 0, 1)
      return ended
    },
  }
}

it.each(compressionsHere())(
  'pages written to while %s reads them leave the stream whole',
  async (compression) => {
    const random = randomNumbers(seed)
    for (const compressionLevel of [0, 1]) {
      using source = new Memory(PAGES * 4096)
      using destination = new Memory(PAGES * 4096)
      for (let page = 0; page < PAGES; page += 1) fill(pageOf(source, page), random)
      await using receiver = new Receiver(destination.native, compression)
      await using sender = new Sender(source, receiver.port, { compression, compressionLevel })
      await sender.start()
      const guest = writer(source)
      for (let round = 1; round <= 5; round += 1) {
        await sender.round()
        for (let page = 0; page < PAGES; page += 1) sender.mark(page)
      }
      await guest.stop()
      // What went before is anything; this round is exact, if the stream was never damaged.
      for (let page = 0; page < PAGES; page += 1) sender.mark(page)
      await sender.round()
      await receiver.synced(6)
      expect(receiver.error).toBeUndefined()
      expectSamePages(destination.bytes, source.bytes)
    }
  },
)

it.each(compressionsHere())('%s goes into a memfd, and through io_uring', async (compression) => {
  await migrate({ compression, engine: 'io-uring' }, 'memfd', 4)
})

describe('what a channel sends', () => {
  it('with zlib is one stream, flushed at the end of each packet, as QEMU writes it', async () => {
    const random = randomNumbers(seed)
    using memory = new Memory(PAGES * 4096)
    for (let page = 0; page < PAGES; page += 1) fill(pageOf(memory, page), random)
    const rounds = [1, 2].map(() => (sender: Sender) => change(memory, sender, random))
    const { packets } = await record(memory, { compression: 'zlib' }, rounds)
    const payloads = packets.filter(({ header }) => header.normalPages > 0)
    expect(payloads[0]?.payload.subarray(0, 2)).toEqual(Uint8Array.of(0x78, 0x01))
    // Node's own inflate, over all of the stream up to the end of each packet.
    const flush = { finishFlush: zlib.Z_SYNC_FLUSH }
    let stream: Uint8Array = new Uint8Array()
    let pages = 0
    const rebuilt = new Uint8Array(PAGES * 4096)
    for (const { header, payload } of payloads) {
      expect(payload.subarray(-4)).toEqual(Uint8Array.of(0, 0, 0xff, 0xff))
      stream = concatBytes(stream, payload)
      const inflated = inflateSync(stream, flush).subarray(pages * 4096)
      expect(inflated.length).toBe(header.normalPages * 4096)
      pages += header.normalPages
      header.normalOffsets.forEach((offset, i) => {
        rebuilt.set(inflated.subarray(i * 4096, (i + 1) * 4096), offset)
      })
      for (const offset of header.zeroOffsets) rebuilt.fill(0, offset, offset + 4096)
    }
    expectSamePages(rebuilt, memory.bytes)
    for (const { header } of packets) {
      const empty = header.normalPages + header.zeroPages === 0
      expect(header.flags).toBe(empty ? 1 : 2)
    }
  })

  it.skipIf(!compressionsHere().includes('zstd'))('with zstd is one frame', async () => {
    const random = randomNumbers(seed)
    using memory = new Memory(PAGES * 4096)
    for (let page = 0; page < PAGES; page += 1) fill(pageOf(memory, page), random)
    const rounds = [(sender: Sender) => change(memory, sender, random)]
    const { packets } = await record(memory, { compression: 'zstd' }, rounds)
    const magic = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd)
    const payloads = packets.filter(({ header }) => header.normalPages > 0)
    payloads.forEach(({ header, payload }, i) => {
      expect(header.flags).toBe(4)
      expect(Buffer.compare(payload.subarray(0, 4), magic) === 0).toBe(i === 0)
    })
  })
})
