// Devices after the stop, saved and loaded again: over channels that carry pieces in any order.

import { describe, expect, it } from 'vitest'
import { MultifdError } from '../../src/kit/errors.ts'
import { DeviceLoader } from '../../src/migrate/device-loader.ts'
import {
  type OutgoingPiece,
  PIECES_IN_FLIGHT_MAX,
  saveDevices,
} from '../../src/migrate/device-saver.ts'
import { PieceChannels } from '../../src/migrate/piece-channels.ts'
import { checkDevices, type SaveStateHandler } from '../../src/migrate/save-state.ts'
import { concatBytes } from '../../src/wire/bytes.ts'
import { decodeDevicePiece, endOfState } from '../../src/wire/device-piece.ts'
import { randomNumbers, testSeed } from '../support/pages.ts'

const seed = testSeed()
const bytes = (...values: number[]) => Uint8Array.from(values)
const settled = () => new Promise((resolve) => setImmediate(resolve))

function handler(idstr: string, parts: Partial<SaveStateHandler> = {}): SaveStateHandler {
  return { idstr, complete: () => bytes(1), load: () => {}, ...parts }
}
const iterable = { pendingEstimate: () => 0, iterate: () => bytes() }
const never = async (): Promise<void> => {
  throw new Error('no piece was expected')
}

describe('devices after the stop', () => {
  it('give their last sections: ENDs, then FULLs, each in order', async () => {
    const order: string[] = []
    const noting = (name: string, value: number) => async () => {
      order.push(name)
      await settled()
      order.push(name)
      return bytes(value)
    }
    const handlers = checkDevices([
      { idstr: 'rtc', save: noting('rtc', 1), load: () => {} },
      handler('disk', { ...iterable, complete: noting('disk', 2) }),
      handler('cpu', { complete: noting('cpu', 3) }),
      handler('nic', { setup: () => bytes(), complete: noting('nic', 4) }),
    ])
    const saved = await saveDevices(handlers, never)
    expect(saved.map(({ device, state }) => `${device.idstr} ${state}`)).toEqual([
      'disk 2',
      'nic 4',
      'rtc 1',
      'cpu 3',
    ])
    expect(order).toEqual(['rtc', 'rtc', 'disk', 'disk', 'cpu', 'cpu', 'nic', 'nic'])
  })

  it('send pieces all at once, few of each at a time, and complete when those are sent', async () => {
    const out: { piece: OutgoingPiece; sent: () => void }[] = []
    const submit = (piece: OutgoingPiece) =>
      new Promise<void>((resolve) => {
        out.push({ piece, sent: resolve })
      })
    const sentOf = new Map<string, number>()
    const completed: [string, number | undefined][] = []
    const device = (idstr: string) =>
      handler(idstr, {
        *completePieces() {
          for (let index = 0; index < 12; index += 1) yield bytes(index)
        },
        complete: () => {
          completed.push([idstr, sentOf.get(idstr)])
          return bytes(99)
        },
      })
    const saved = saveDevices(checkDevices([device('a'), device('b')]), submit)
    await settled()
    expect(out.map(({ piece }) => piece.idstr).sort()).toEqual([...'aaaaaaaabbbbbbbb'])
    expect(PIECES_IN_FLIGHT_MAX).toBe(8)
    for (const { piece, sent } of out) {
      sentOf.set(piece.idstr, (sentOf.get(piece.idstr) ?? 0) + 1)
      sent()
      await settled()
    }
    expect(completed).toEqual([
      ['a', 12],
      ['b', 12],
    ])
    const states = (await saved).map(({ state }) => state)
    expect(states).toEqual([endOfState(), endOfState()])
    const ofA = out.filter(({ piece }) => piece.idstr === 'a').map(({ piece }) => piece)
    const decoded = ofA.map(({ prefix, data }) => decodeDevicePiece(concatBytes(prefix, data)))
    expect(decoded.map((piece) => piece.ok && piece.value)).toEqual([
      ...Array.from({ length: 12 }, (_, index) => ({ index, last: false, data: bytes(index) })),
      { index: 12, last: true, data: bytes(99) },
    ])
  })

  it('arrive whole and in order, whatever channel and order their pieces take', async () => {
    const random = randomNumbers(seed)
    const names = ['vga', 'nic', 'gpu']
    const pieces = new Map(
      names.map((name) => [
        name,
        Array.from({ length: Math.floor(random() * 40) }, () => bytes(Math.floor(random() * 256))),
      ]),
    )
    const loaded = new Map<string, Uint8Array[]>(names.map((name) => [name, []]))
    const handlers = checkDevices(
      names.map((name) =>
        handler(name, {
          async *completePieces() {
            for (const piece of pieces.get(name) ?? []) {
              if (random() < 0.5) await settled()
              yield piece
            }
          },
          complete: () => bytes(7, 7),
          load: async (state, part) => {
            if (random() < 0.5) await settled()
            if (part !== 'setup') loaded.get(name)?.push(state)
          },
        }),
      ),
    )
    const errors: MultifdError[] = []
    const fail = (error: MultifdError) => void errors.push(error)
    const loader = new DeviceLoader({ handlers, queueBytesMax: 1 << 20, fail })
    const network: { channelId: number; piece: OutgoingPiece }[] = []
    const channels = new PieceChannels(
      [0, 1, 2].map((channelId) => ({
        submitDeviceState: (piece) => network.push({ channelId, piece }) > 0,
      })),
    )
    const named = (idstr: string) => ({ sectionId: 2, idstr, instanceId: 0, versionId: 1 })
    for (const name of names) {
      const start = { kind: 'device-section', type: 'start', payload: bytes() } as const
      await loader.section({ ...start, ...named(name) }, false)
    }
    let over = false
    const saving = saveDevices(handlers, (piece) => channels.submit(piece)).then((sections) => {
      over = true
      return sections
    })
    while (!over) {
      // Any channel's oldest piece arrives next.
      const at = network.findIndex(({ channelId }, index) => {
        const oldest = network.findIndex((other) => other.channelId === channelId) === index
        return oldest && random() < 0.5
      })
      const [arrived] = at < 0 ? [] : network.splice(at, 1)
      if (arrived !== undefined) {
        const { prefix, data, ...name } = arrived.piece
        loader.piece({ ...name, bytes: concatBytes(prefix, data) })
        channels.done(arrived.channelId)
      }
      await settled()
    }
    for (const { device, state } of await saving) {
      const end = { kind: 'device-section', type: 'end', payload: state } as const
      await loader.section({ ...end, ...named(device.idstr) }, true)
    }
    await loader.finish()
    expect(errors).toEqual([])
    for (const name of names) {
      expect(loaded.get(name)).toEqual([...(pieces.get(name) ?? []), bytes(7, 7)])
    }
  })

  const big = (size: number) => new Uint8Array(size)
  const liars: [string, Partial<SaveStateHandler>, RegExp | undefined][] = [
    ['within the slack', { pendingExact: () => 80_000, complete: () => big(155_536) }, undefined],
    ['nothing said', { complete: () => big(1_000_000) }, undefined],
    [
      'more than was said',
      { pendingExact: () => 80_000, complete: () => big(155_537) },
      /complete of device "liar" .* gave 155537 bytes, .* said 80000 .* at most 75536 more/,
    ],
    [
      'more pieces than was said',
      { pendingEstimate: () => 0, completePieces: () => [big(60_000), big(6000)] },
      /gave 66000 bytes, but pendingExact had said 0/,
    ],
    [
      'the end of pieces without pieces',
      { ...iterable, complete: endOfState },
      /complete of device "liar" .* eight bytes/,
    ],
  ]
  it.each(liars)('may give %s or not', async (_title, parts, sentence) => {
    const saved = saveDevices(checkDevices([handler('liar', parts)]), async () => {})
    if (sentence === undefined) expect(await saved).toHaveLength(1)
    else await expect(saved).rejects.toThrow(sentence)
  })

  it('fail with the first of them, and the others are asked for nothing more', async () => {
    let asked = 0
    let cleaned = false
    const well = handler('well', {
      async *completePieces() {
        try {
          for (;;) {
            asked += 1
            await settled()
            yield bytes(1)
          }
        } finally {
          cleaned = true
        }
      },
    })
    const broken = handler('broken', {
      async *completePieces() {
        await settled()
        yield bytes(1)
        throw new Error('lost its queue')
      },
    })
    const late = handler('late', { complete: () => settled().then(() => bytes()) })
    const saved = saveDevices(checkDevices([well, broken, late]), async () => {})
    await expect(saved).rejects.toThrow(
      'completePieces of device "broken" (instance 0) failed: lost its queue',
    )
    expect(asked).toBeLessThan(6)
    const before = asked
    await settled()
    expect([asked, cleaned]).toEqual([before, true])
  })

  it('fail when their pieces cannot be sent', async () => {
    const lost = new MultifdError('ERR_MULTIFD_PEER_CLOSED', 'the channel broke')
    let calls = 0
    const submit = async () => {
      calls += 1
      if (calls === 2) throw lost
    }
    const completePieces = () => Array.from({ length: 20 }, () => bytes(1))
    const saved = saveDevices(checkDevices([handler('vga', { completePieces })]), submit)
    await expect(saved).rejects.toBe(lost)
  })
})

describe('channels that carry pieces', () => {
  const piece = (idstr: string): OutgoingPiece => {
    return { idstr, instanceId: 0, prefix: bytes(), data: bytes() }
  }
  function make(count: number) {
    const sent: string[] = []
    const channels = new PieceChannels(
      Array.from({ length: count }, (_, channelId) => ({
        submitDeviceState: ({ idstr }) => sent.push(`${channelId} ${idstr}`) > 0,
      })),
    )
    return { channels, sent }
  }

  it('get each piece on the freest, and hold four at most', async () => {
    const { channels, sent } = make(2)
    const done = [...'abcdefghij'].map((name) => channels.submit(piece(name)))
    expect(sent.join()).toBe('0 a,1 b,0 c,1 d,0 e,1 f,0 g,1 h')
    channels.done(1)
    expect(sent.slice(8)).toEqual(['1 i'])
    channels.done(0)
    channels.done(0)
    expect(sent.slice(9)).toEqual(['0 j'])
    for (const channelId of [0, 0, 0, 1, 1, 1, 1]) channels.done(channelId)
    await Promise.all(done)
    expect(() => channels.done(0)).toThrow(/holds no piece/)
  })

  it('let nobody wait once the migration has failed', async () => {
    const { channels, sent } = make(1)
    const waiting = [...'abcdef'].map((name) => channels.submit(piece(name)))
    const lost = new MultifdError('ERR_MULTIFD_PEER_CLOSED', 'the channel broke')
    channels.fail(lost)
    for (const one of waiting) await expect(one).rejects.toBe(lost)
    await expect(channels.submit(piece('g'))).rejects.toBe(lost)
    channels.done(0)
    expect(sent).toHaveLength(4)
  })
})
