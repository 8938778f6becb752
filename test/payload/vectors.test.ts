// Streams that QEMU recorded with compression, through the channels of a destination: each is
// parked at its SYNC until the main channel's sync point, and in the end every block is what QEMU's
// manifest says.

import { createHash } from 'node:crypto'
import { connect } from 'node:net'
import { describe, expect, it } from 'vitest'
import { checked, type NativeGuestMemory, native } from '../../src/kit/native.ts'
import { DialectDetector } from '../../src/wire/dialect.ts'
import { readWhole } from '../wire/reading.ts'
import { loadStream, type Vector, vectors } from '../wire/vectors.ts'
import { compressionsHere, Receiver } from './channels.ts'

interface Blocks {
  memory: NativeGuestMemory
  views: Map<string, ArrayBuffer>
}

function makeBlocks(list: readonly { idstr: string; usedLength: number }[]): Blocks {
  const memory = checked(
    native().createGuestMemory(
      list.map(({ idstr, usedLength }) => {
        return { idstr, kind: 'anonymous' as const, sizeBytes: usedLength }
      }),
    ),
    'making memory failed',
  )
  const views = list.map(({ idstr }, index) => [idstr, memory.view(index)] as const)
  return { memory, views: new Map(views.flatMap(([id, view]) => (view ? [[id, view]] : []))) }
}

/** Replays the vector; the SHA-256 of each block, and how many sync points there were. */
async function replay(vector: Vector) {
  const { events } = readWhole(loadStream(vector.main.file))
  const sizes = events.find((event) => event.kind === 'ram-mem-size')
  const { memory, views } = makeBlocks(sizes?.blocks ?? [])
  const channels = vector.multifd.length
  const detector = new DialectDetector()
  const write = (idstr: string, offset: number, page: Uint8Array = new Uint8Array(4096)) => {
    new Uint8Array(views.get(idstr) ?? new ArrayBuffer(0)).set(page, offset)
  }
  let syncPoints = 0
  {
    await using receiver = new Receiver(memory, vector.compression, { channels, hold: true })
    const sockets = vector.multifd.map(({ file }) => {
      return connect(receiver.port, '127.0.0.1').end(loadStream(file))
    })
    for (const event of events) {
      if (event.kind === 'ram-zero') write(event.idstr, event.offset)
      else if (event.kind === 'ram-page') write(event.idstr, event.offset, event.contents)
      else if (event.kind === 'ram-flush' || event.kind === 'ram-eos') {
        if (!detector.observe(event.kind)) continue
        syncPoints += 1
        await receiver.synced(syncPoints * channels)
        if (receiver.error !== undefined) throw receiver.error
        receiver.release()
      }
    }
    await receiver.ended
    if (receiver.error !== undefined) throw receiver.error
    for (const socket of sockets) socket.destroy()
  }
  const hashes = [...views].map(([idstr, view]) => {
    return [idstr, createHash('sha256').update(new Uint8Array(view)).digest('hex')]
  })
  memory.close([...views.values()])
  return { hashes: Object.fromEntries(hashes), syncPoints }
}

const compressed = vectors.filter(({ compression }) => compression !== 'none')

it('has streams of both methods and both dialects', () => {
  expect(compressed.map(({ name }) => name).sort()).toEqual([
    'q102-modern-zlib',
    'q102-modern-zstd',
    'q72-legacy-zlib',
  ])
})

describe.each(compressionsHere())('a stream that QEMU compressed with %s', (compression) => {
  it.each(
    compressed
      .filter((vector) => vector.compression === compression)
      .map((v) => [v.name, v] as const),
  )('%s rebuilds its memory', async (_name, vector) => {
    const { hashes, syncPoints } = await replay(vector)
    expect(hashes).toEqual(vector.rebuilt_sha256)
    expect(syncPoints).toBe(vector.sync_points)
  })

  it('is refused by a channel that was told another method', async () => {
    const [vector] = compressed.filter((candidate) => candidate.compression === compression)
    if (vector === undefined) throw new Error('no vector')
    for (const other of ['none', compression === 'zlib' ? 'zstd' : 'zlib'] as const) {
      if (other !== 'none' && !compressionsHere().includes(other)) continue
      await expect(replay({ ...vector, compression: other })).rejects.toMatchObject({
        code: 'ERR_MULTIFD_UNSUPPORTED',
        message: expect.stringMatching(/set the same multifd-compression on both ends/),
      })
    }
  })
})
