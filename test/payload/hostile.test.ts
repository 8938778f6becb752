// Compressed payloads that no sender would send: cut, damaged, bombs, streams that end, go on with
// another one, or never began. Each is refused with a sentence, and not a byte is written but in
// the pages that the packet lists.

import { deflateRawSync, deflateSync, constants as zlib } from 'node:zlib'
import { beforeAll, describe, expect, it } from 'vitest'
import type { MultifdError } from '../../src/kit/errors.ts'
import { concatBytes } from '../../src/wire/bytes.ts'
import { encodeInitialPacket, encodeRamPacketHeader } from '../../src/wire/packet.ts'
import { randomNumbers, testSeed } from '../support/pages.ts'
import { expectNothingLeft, held } from '../support/resources.ts'
import { BLOCK, compressionsHere, FLAGS, feed, Memory, record } from './channels.ts'

const PAGE = 4096
const CANARY = 0xc5
const BLOCK_PAGES = 16
/** The pages every packet lists: neighbours, alone, and in no order. */
const LISTED = [9, 3, 4, 12]
const seed = testSeed()
const PROTOCOL = 'ERR_MULTIFD_PROTOCOL'

type Compression = 'zlib' | 'zstd'
const introduction = encodeInitialPacket({ uuid: new Uint8Array(16), channelId: 0 })

function packet(compression: Compression, payload: Uint8Array): Uint8Array {
  const header = encodeRamPacketHeader({
    ...{ flags: FLAGS[compression], pagesAlloc: 128, packetNum: 1, ramblock: BLOCK },
    ...{ nextPacketSize: payload.length, zeroOffsets: [] },
    normalOffsets: LISTED.map((page) => page * PAGE),
  })
  return concatBytes(header, payload)
}

/** Feeds the payloads; checks that only listed pages were written. */
async function offer(
  compression: Compression,
  ...payloads: Uint8Array[]
): Promise<{ error: MultifdError | undefined; bytes: Uint8Array }> {
  using memory = new Memory(BLOCK_PAGES * PAGE)
  memory.bytes.fill(CANARY)
  const packets = payloads.map((payload) => packet(compression, payload))
  const error = await feed(memory, compression, concatBytes(introduction, ...packets))
  for (let page = 0; page < BLOCK_PAGES; page += 1) {
    if (LISTED.includes(page)) continue
    const bytes = memory.bytes.subarray(page * PAGE, (page + 1) * PAGE)
    expect(bytes.every((byte) => byte === CANARY)).toBe(true)
  }
  return { error, bytes: memory.bytes.slice() }
}

async function refused(
  compression: Compression,
  sentence: RegExp,
  ...payloads: Uint8Array[]
): Promise<void> {
  const { error } = await offer(compression, ...payloads)
  expect(error?.code).toBe(PROTOCOL)
  expect(error?.message).toMatch(sentence)
}

/** Payloads as a sender of ours makes them, each of four pages. */
async function goodPayloads(compression: Compression): Promise<Uint8Array[]> {
  const random = randomNumbers(seed)
  using memory = new Memory(4 * PAGE)
  const write = () => {
    for (let at = 0; at < memory.bytes.length; at += 1) {
      memory.bytes[at] = at % PAGE === 0 ? 1 : random() * (at < PAGE ? 256 : 8)
    }
  }
  write()
  const change = (sender: { mark: (page: number) => void }) => {
    write()
    for (let page = 0; page < 4; page += 1) sender.mark(page)
  }
  const { packets } = await record(memory, { compression }, [change, change])
  const payloads = packets.filter(({ header }) => header.normalPages > 0)
  expect(payloads.every(({ header }) => header.normalPages === 4)).toBe(true)
  return payloads.map(({ payload }) => payload.slice())
}

const SYNC_FLUSH = { finishFlush: zlib.Z_SYNC_FLUSH }
const LISTED_BYTES = LISTED.length * PAGE

describe.each(compressionsHere())('a payload of %s', (compression) => {
  let good: Uint8Array[] = []
  beforeAll(async () => {
    good = await goodPayloads(compression)
  })
  const at = (index: number): Uint8Array => good[index] ?? new Uint8Array()

  it('is taken as it was sent', async () => {
    const { error } = await offer(compression, ...good)
    expect(error).toBeUndefined()
    expect(good).toHaveLength(3)
  })

  it('that is cut anywhere is refused, first or later', async () => {
    const before = held()
    for (const index of [0, 1]) {
      const whole = at(index)
      const lengths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 100, 1000]
      const cuts = [...lengths, ...lengths.map((length) => whole.length - length)]
      const { bytes: contents } = await offer(compression, ...good.slice(0, index + 1))
      let refusals = 0
      for (const cut of cuts) {
        const previous = good.slice(0, index)
        const { error, bytes } = await offer(compression, ...previous, whole.subarray(0, cut))
        // Without its flush it may still end between two blocks, on a whole byte: then it is whole.
        if (error === undefined) expect(bytes).toEqual(contents)
        else expect(error.message).toMatch(/payload/)
        refusals += error?.code === PROTOCOL ? 1 : 0
      }
      expect(refusals).toBeGreaterThan(cuts.length - 3)
    }
    expectNothingLeft(before)
  })

  it('with bytes behind its end is refused', async () => {
    for (const tail of [[0], [0, 0, 0, 0, 0], [0xff], [1, 2, 3, 4, 5, 6, 7, 8]]) {
      await refused(compression, /payload/, concatBytes(at(0), Uint8Array.from(tail)))
    }
    // More of the same stream, which only yields too much.
    await refused(
      compression,
      /more than the 16384 bytes of its 4 pages/,
      concatBytes(at(0), at(1)),
    )
  })

  it('out of order, or twice, is refused or at least stays in its pages', async () => {
    await refused(compression, /payload/, at(1))
    await offer(compression, at(0), at(2), at(1))
    await offer(compression, at(0), at(0))
  })

  it('of the other method is refused', async () => {
    const noise = Uint8Array.from({ length: 600 }, (_, i) => i * 7)
    const foreign =
      compression === 'zlib'
        ? Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 1, 0, 0)
        : new Uint8Array(deflateSync(new Uint8Array(LISTED_BYTES), SYNC_FLUSH))
    for (const payload of [noise, foreign, Uint8Array.of(0)]) {
      await refused(compression, /payload/, payload)
    }
  })

  it('with any damage is refused or stays in its pages', async () => {
    const before = held()
    const random = randomNumbers(seed)
    let refusals = 0
    for (let run = 0; run < 300; run += 1) {
      const payloads = good.map((payload) => payload.slice())
      for (let changes = 1 + random() * 4; changes > 0; changes -= 1) {
        const payload = payloads[Math.floor(random() * payloads.length)] ?? new Uint8Array()
        // Often near its ends, where the headers and the flush are.
        const near = random() < 0.5 ? 24 : payload.length
        const index = Math.floor(random() * near)
        payload[random() < 0.5 ? index : payload.length - 1 - index] = random() * 256
      }
      const { error } = await offer(compression, ...payloads)
      if (error !== undefined) {
        expect(error.code).toBe(PROTOCOL)
        refusals += 1
      }
    }
    expect(refusals).toBeGreaterThan(100)
    expectNothingLeft(before)
  })
})

describe('a bomb', () => {
  it('of zlib is refused when its pages are full', async () => {
    // 400 MiB in 400 KiB.
    const bomb = new Uint8Array(deflateSync(Buffer.alloc(400 << 20), SYNC_FLUSH))
    expect(bomb.length).toBeLessThan(1 << 20)
    await refused('zlib', /yields more than the 16384 bytes/, bomb)
  })

  it.runIf(compressionsHere().includes('zstd'))(
    'of zstd is refused when its pages are full',
    async () => {
      // Blocks of four bytes, each of which stands for 128 KiB of one byte.
      const blocks = Buffer.alloc(800_000, zstdBlock(1, 128 << 10, [7]))
      await refused('zstd', /yields more than the 16384 bytes/, zstd(blocks))
    },
  )
})

describe('a zlib stream', () => {
  const pages = Buffer.alloc(LISTED_BYTES, 'guest')

  it('that is finished is refused, also where its pages are whole', async () => {
    const finished = new Uint8Array(deflateSync(pages))
    await refused('zlib', /the stream was finished/, finished)
    // Its last block, without the checksum behind it.
    await refused('zlib', /does not end with a flush/, finished.subarray(0, -4))
  })

  it('that is not flushed to a whole byte is refused, also where its pages are whole', async () => {
    const partial = { finishFlush: zlib.Z_PARTIAL_FLUSH }
    await refused('zlib', /does not end with a flush/, new Uint8Array(deflateSync(pages, partial)))
  })

  it('without its header, or with a preset dictionary, is refused', async () => {
    await refused('zlib', /payload/, new Uint8Array(deflateRawSync(pages, SYNC_FLUSH)))
    const dictionary = Buffer.from('guest'.repeat(100))
    const preset = deflateSync(pages, { ...SYNC_FLUSH, dictionary })
    await refused('zlib', /payload/, new Uint8Array(preset))
  })

  it('made by Node itself is taken, at every level', async () => {
    for (let level = 0; level <= 9; level += 1) {
      const payload = new Uint8Array(deflateSync(pages, { ...SYNC_FLUSH, level }))
      const { error, bytes } = await offer('zlib', payload)
      expect(error).toBeUndefined()
      LISTED.forEach((page, i) => {
        const expected = pages.subarray(i * PAGE, (i + 1) * PAGE)
        expect(Buffer.compare(bytes.subarray(page * PAGE, (page + 1) * PAGE), expected)).toBe(0)
      })
    }
  })
})

/** A frame without content size, with a window of 2^windowLog, and these blocks. */
function zstd(...blocks: Uint8Array[]): Uint8Array {
  return zstdWith(20, ...blocks)
}
function zstdWith(windowLog: number, ...blocks: Uint8Array[]): Uint8Array {
  return concatBytes(Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0, (windowLog - 10) << 3), ...blocks)
}
/** Type 0 is raw, 1 one repeated byte; `size` is the block's size field. */
function zstdBlock(type: number, size: number, contents: number[], last = 0): Uint8Array {
  const header = (size << 3) | (type << 1) | last
  return Uint8Array.of(header & 255, (header >> 8) & 255, header >> 16, ...contents)
}

describe.runIf(compressionsHere().includes('zstd'))('a zstd frame', () => {
  const fill = zstdBlock(1, LISTED_BYTES, [9])
  const magic = zstd()

  it('of one block that repeats a byte is taken', async () => {
    const { error, bytes } = await offer('zstd', zstd(fill), fill)
    expect(error).toBeUndefined()
    for (const page of LISTED) expect(bytes[page * PAGE + 17]).toBe(9)
  })

  it('that is ended is refused, also where its pages are whole', async () => {
    await refused('zstd', /the frame was ended/, zstd(zstdBlock(1, LISTED_BYTES, [9], 1)))
    await refused('zstd', /the frame was ended/, zstd(fill, zstdBlock(0, 0, [], 1)))
    await refused('zstd', /payload/, zstd(fill), concatBytes(zstd(fill)))
  })

  it('that begins with a skippable one is refused', async () => {
    const skippable = Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4)
    await refused('zstd', /does not begin with a zstd frame/, concatBytes(skippable, zstd(fill)))
  })

  it('that stops within a block is refused, also where its pages are whole', async () => {
    const behind = zstdBlock(0, 100, [1, 2, 3])
    await refused('zstd', /does not end with a flush/, zstd(fill, behind))
    await refused('zstd', /does not end with a flush/, zstd(fill, behind.subarray(0, 2)))
    await refused('zstd', /does not begin with a zstd frame/, magic.subarray(0, 4))
    await refused('zstd', /too few bytes/, magic)
  })

  it('with a block of a reserved type, or a window beyond the bound, is refused', async () => {
    await refused('zstd', /payload/, zstd(zstdBlock(3, 4, [1, 2, 3, 4])))
    await refused('zstd', /payload/, zstdWith(28, fill))
    const { error } = await offer('zstd', zstdWith(27, fill))
    expect(error).toBeUndefined()
  })
})
