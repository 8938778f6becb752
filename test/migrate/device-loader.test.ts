// What comes in for devices, in every order: what is loaded, when, and what is refused.

import { describe, expect, it } from 'vitest'
import { deferred } from '../../src/kit/deferred.ts'
import { MultifdError } from '../../src/kit/errors.ts'
import { DeviceLoader } from '../../src/migrate/device-loader.ts'
import { checkDevices, type SaveStateHandler } from '../../src/migrate/save-state.ts'
import { switchoverAcknowledged } from '../../src/migrate/switchover-ack.ts'
import { be32, concatBytes } from '../../src/wire/bytes.ts'
import { encodeDevicePiece, endOfState } from '../../src/wire/device-piece.ts'
import type { DeviceSectionEvent, DeviceStateEvent } from '../../src/wire/main-stream-events.ts'

const vga = { sectionId: 2, idstr: 'vga', instanceId: 0, versionId: 1 }
const nothing = new Uint8Array(0)

function section(
  type: 'start' | 'part' | 'end' | 'full',
  payload: Uint8Array = nothing,
  name: Partial<typeof vga> = {},
): DeviceSectionEvent | DeviceStateEvent {
  const named = { ...vga, ...name, payload }
  return type === 'full'
    ? { kind: 'device-state', ...named }
    : { kind: 'device-section', type, ...named }
}

function packet(index: number, last = false, data = Uint8Array.of(index), idstr = 'vga') {
  const { prefix, data: rest } = encodeDevicePiece({ index, last, data })
  return { idstr, instanceId: 0, bytes: concatBytes(prefix, rest) }
}

/** A loader for devices that note what they got. */
function make(parts: Partial<SaveStateHandler>[] = [{}], queueBytesMax = 1 << 20) {
  const loaded: string[] = []
  const errors: MultifdError[] = []
  const handlers = checkDevices(
    parts.map((part): SaveStateHandler => {
      const idstr = part.idstr ?? 'vga'
      const load: SaveStateHandler['load'] = (state, what, versionId) => {
        loaded.push(`${idstr} ${what} ${state} v${versionId}`)
      }
      return { complete: () => nothing, versionId: 2, load, ...part, idstr }
    }),
  )
  const loader = new DeviceLoader({ handlers, queueBytesMax, fail: (error) => errors.push(error) })
  return { loader, loaded, errors }
}

/** Lets everything that can go on do so. */
const settled = () => new Promise((resolve) => setImmediate(resolve))

describe('a device of several sections', () => {
  it('is loaded section by section, in the version of its START', async () => {
    const { loader, loaded } = make()
    await loader.section(section('start', Uint8Array.of(1)), false)
    await loader.section(section('part', Uint8Array.of(2), { versionId: 9 }), false)
    await loader.section(section('part', Uint8Array.of(3)), false)
    await loader.section(section('end', Uint8Array.of(4)), true)
    await loader.finish()
    const rest = ['vga iterate 2 v1', 'vga iterate 3 v1', 'vga complete 4 v1']
    expect(loaded).toEqual(['vga setup 1 v1', ...rest])
  })

  it('takes its pieces in any order, and the last one only when RAM is in place', async () => {
    const { loader, loaded, errors } = make()
    await loader.section(section('start'), false)
    for (const index of [2, 1]) loader.piece(packet(index))
    await settled()
    expect(loaded).toEqual(['vga setup  v1'])
    loader.piece(packet(3, true))
    loader.piece(packet(0))
    await settled()
    const pieces = ['vga piece 0 v1', 'vga piece 1 v1', 'vga piece 2 v1']
    expect(loaded.slice(1)).toEqual(pieces)
    await loader.section(section('end', endOfState()), true)
    await loader.finish()
    expect(loaded.slice(1)).toEqual([...pieces, 'vga complete 3 v1'])
    expect(errors).toEqual([])
  })

  it('is waited for at EOF until its last piece was loaded', async () => {
    const slow = deferred()
    const { loader } = make([
      { load: async (_state, part) => (part === 'piece' ? slow.promise : undefined) },
    ])
    await loader.section(section('start'), false)
    await loader.section(section('end', endOfState()), true)
    let over = false
    const finished = loader.finish().then(() => (over = true))
    loader.piece(packet(1, true))
    await settled()
    loader.piece(packet(0))
    await settled()
    expect(over).toBe(false)
    slow.resolve()
    await finished
  })

  it('never has two calls at once, whatever comes while one runs', async () => {
    let inside = 0
    let most = 0
    const load = async () => {
      inside += 1
      most = Math.max(most, inside)
      await settled()
      inside -= 1
    }
    const { loader } = make([{ load }])
    const started = loader.section(section('start'), false)
    for (const index of [0, 1, 2]) loader.piece(packet(index))
    const parted = loader.section(section('part'), false)
    loader.piece(packet(3, true))
    await Promise.all([started, parted])
    await loader.section(section('end', endOfState()), true)
    await loader.finish()
    expect([most, inside]).toEqual([1, 0])
  })

  it('begins afresh on another connection, when the call in hand is over', async () => {
    const hand = deferred()
    let calls = 0
    const load = async () => {
      calls += 1
      if (calls === 1) await hand.promise
    }
    const { loader, errors } = make([{ load }])
    const lost = loader.section(section('start'), false)
    loader.piece(packet(1))
    let restarted = false
    const restarting = loader.restart().then(() => (restarted = true))
    await settled()
    expect(restarted).toBe(false)
    hand.resolve()
    await restarting
    await lost
    await loader.section(section('start'), false)
    await loader.section(section('end', endOfState()), true)
    loader.piece(packet(0))
    loader.piece(packet(1, true))
    await loader.finish()
    expect([calls, errors]).toEqual([4, []])
    await expect(loader.restart()).rejects.toThrow(/do not begin afresh/)
  })

  it('may be the simple kind at neither end', async () => {
    const [device] = checkDevices([{ idstr: 'vga', save: () => nothing, load: () => {} }])
    if (device === undefined) throw new Error('one device gives one handler')
    const loader = new DeviceLoader({ handlers: [device], queueBytesMax: 1, fail: () => {} })
    await expect(loader.section(section('start'), false)).rejects.toThrow(/while the guest runs/)
    await loader.section(section('full', endOfState()), true)
    await loader.finish()
  })
})

describe('a section is refused', () => {
  type Event = ReturnType<typeof section>
  const cases: [string, [Event, boolean][], RegExp][] = [
    [
      'of an unknown device',
      [[section('start', nothing, { idstr: 'nic' }), false]],
      /does not have/,
    ],
    [
      'of an unknown instance',
      [[section('full', nothing, { instanceId: 1 }), true]],
      /"vga" \(instance 1\), which this destination does not have/,
    ],
    [
      'in a version too new',
      [[section('start', nothing, { versionId: 3 }), false]],
      /version 3, .* 2/,
    ],
    ['that is one, before RAM', [[section('full'), false]], /once, and after the end of RAM/],
    [
      'that is one, twice',
      [
        [section('full'), true],
        [section('full'), true],
      ],
      /expected it once/,
    ],
    [
      'that is one, behind a START',
      [
        [section('start'), false],
        [section('full'), true],
      ],
      /expected it once/,
    ],
    [
      'START twice',
      [
        [section('start'), false],
        [section('start'), false],
      ],
      /expected its START once/,
    ],
    ['PART first', [[section('part'), false]], /expected its START first/],
    ['END first', [[section('end'), true]], /after its START and the end of RAM/],
    [
      'END before RAM',
      [
        [section('start'), false],
        [section('end'), false],
      ],
      /after its START and the end of RAM/,
    ],
  ]
  it.each(cases)('%s', async (_title, events, sentence) => {
    const { loader } = make()
    const load = async () => {
      for (const [event, ramOver] of events) await loader.section(event, ramOver)
    }
    await expect(load()).rejects.toThrow(sentence)
    await expect(load()).rejects.toBeInstanceOf(MultifdError)
  })

  it('at EOF if it never came, or not its END', async () => {
    const { loader } = make()
    await expect(loader.finish()).rejects.toThrow(/no state for device "vga" \(instance 0\)/)
    await loader.section(section('start'), false)
    await expect(loader.finish()).rejects.toThrow(/no state for device "vga"/)
  })

  it('when the device cannot load it', async () => {
    const load = () => Promise.reject(new Error('no such mode'))
    const { loader } = make([{ load }])
    const failure = loader.section(section('full'), true)
    await expect(failure).rejects.toThrow('load of device "vga" (instance 0) failed: no such mode')
  })
})

describe('a piece is refused', () => {
  const pieceOf = (...words: number[]) => {
    return { idstr: 'vga', instanceId: 0, bytes: concatBytes(...words.map(be32)) }
  }
  const cases: [string, ReturnType<typeof packet>[], string, RegExp][] = [
    [
      'of an unknown device',
      [packet(0, false, nothing, 'nic')],
      'PROTOCOL',
      /"nic" .* does not have/,
    ],
    ['twice while it waits', [packet(1), packet(1)], 'PROTOCOL', /piece 1 twice/],
    ['twice when it was loaded', [packet(0), packet(0)], 'PROTOCOL', /piece 0 twice/],
    [
      'behind the last one',
      [packet(1, true), packet(2)],
      'PROTOCOL',
      /piece 2 behind its last one, 1/,
    ],
    ['as a second last one', [packet(3, true), packet(2, true)], 'PROTOCOL', /piece 2 behind/],
    [
      'as the last one too early',
      [packet(3), packet(2, true)],
      'PROTOCOL',
      /but piece 3 before it/,
    ],
    ['without an index', [pieceOf(0, 0xffff_ffff, 0)], 'PROTOCOL', /"vga" .*: .* 0xffffffff/],
    ['of another version', [pieceOf(1, 0, 0)], 'UNSUPPORTED', /"vga" .*: a piece has version 1/],
    ['that is cut', [pieceOf(0, 0)], 'PROTOCOL', /"vga" .*: a piece has 8 bytes/],
  ]
  it.each(cases)('%s', async (_title, packets, code, sentence) => {
    const { loader, errors } = make()
    await loader.section(section('start'), false)
    for (const one of packets) loader.piece(one)
    await settled()
    expect(errors.map((error) => error.code)).toEqual([`ERR_MULTIFD_${code}`])
    expect(errors[0]?.message).toMatch(sentence)
  })

  it('before its START, and behind an END that held the state', async () => {
    const early = make()
    early.loader.piece(packet(0))
    expect(early.errors[0]?.message).toMatch(/in pieces, expected its START first/)
    const late = make()
    await late.loader.section(section('start'), false)
    await late.loader.section(section('end', Uint8Array.of(1)), true)
    late.loader.piece(packet(0))
    expect(late.errors[0]?.message).toMatch(/piece 0 behind its END/)
  })

  it('by an END that holds a state as well', async () => {
    const { loader } = make()
    await loader.section(section('start'), false)
    loader.piece(packet(0))
    await expect(loader.section(section('end', Uint8Array.of(1)), true)).rejects.toThrow(
      /in pieces, expected its END to hold no state/,
    )
  })

  it('when too much waits for an earlier one, empty ones included', async () => {
    const full = make([{}], 3 * 1128)
    await full.loader.section(section('start'), false)
    for (const index of [3, 2, 1]) full.loader.piece(packet(index, false, new Uint8Array(1000)))
    expect(full.errors).toEqual([])
    full.loader.piece(packet(4, false, nothing))
    expect(full.errors[0]?.code).toBe('ERR_MULTIFD_LIMIT')
    expect(full.errors[0]?.message).toMatch(
      /^device "vga" \(instance 0\): 3512 bytes .* piece 0 first; at most 3384 .*deviceQueueBytesMax/,
    )
    const drained = make([{}], 3 * 1128)
    await drained.loader.section(section('start'), false)
    for (let index = 0; index < 50; index += 1) {
      drained.loader.piece(packet(index, false, new Uint8Array(1000)))
      await settled()
    }
    expect(drained.errors).toEqual([])
  })

  it('when the device cannot load it, which EOF hears of too', async () => {
    const load = async (_state: Uint8Array, part: string) => {
      if (part === 'piece') throw new Error('bad piece')
    }
    const { loader, errors } = make([{ load }])
    await loader.section(section('start'), false)
    await loader.section(section('end', endOfState()), true)
    const finished = loader.finish()
    loader.piece(packet(0))
    await expect(finished).rejects.toThrow(/load of device "vga" .* failed: bad piece/)
    expect(errors).toHaveLength(1)
  })

  it('by nobody if the channels end without it: the device is named, before END or after', async () => {
    const before = make()
    await before.loader.section(section('start'), false)
    before.loader.piece(packet(1, true))
    before.loader.channelsEnded()
    expect(before.errors).toEqual([])
    await before.loader.section(section('end', endOfState()), true)
    await expect(before.loader.finish()).rejects.toThrow(/"vga" .* no piece 0 before .* ended/)

    const after = make([{ idstr: 'rtc' }, {}])
    await after.loader.section(section('full', nothing, { idstr: 'rtc' }), true)
    await after.loader.section(section('start'), false)
    await after.loader.section(section('end', endOfState()), true)
    after.loader.piece(packet(0))
    after.loader.channelsEnded()
    expect(after.errors.map((error) => error.message)).toEqual([
      'the source sent device "vga" (instance 0), no piece 1 before its multifd channels ended',
    ])

    const complete = make()
    await complete.loader.section(section('start'), false)
    await complete.loader.section(section('end', endOfState()), true)
    complete.loader.piece(packet(0, true))
    complete.loader.channelsEnded()
    await complete.loader.finish()
    expect(complete.errors).toEqual([])
  })
})

describe('the acknowledgement of the switchover', () => {
  const disk: SaveStateHandler = { idstr: 'disk', complete: () => nothing, load: () => {} }
  it('comes at once where no device asks for one', async () => {
    await switchoverAcknowledged(checkDevices([disk]))
    await switchoverAcknowledged([])
  })

  it('waits for all devices that do, and fails with the first that cannot', async () => {
    const [one, two] = [deferred(), deferred()]
    const nic = { ...disk, idstr: 'nic', switchoverAck: () => two.promise }
    const handlers = checkDevices([{ ...disk, switchoverAck: () => one.promise }, nic])
    let over = false
    const acknowledged = switchoverAcknowledged(handlers).then(() => (over = true))
    one.resolve()
    await settled()
    expect(over).toBe(false)
    two.resolve()
    await acknowledged
    const broken = { ...disk, switchoverAck: () => Promise.reject(new Error('no medium')) }
    const failing = switchoverAcknowledged(checkDevices([broken]))
    await expect(failing).rejects.toThrow('switchoverAck of device "disk" (instance 0) failed')
  })
})
