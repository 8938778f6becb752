// Devices over real channels, end to end: in turns beside RAM while the guest runs, in pieces over
// all channels once it has stopped.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  GuestMemory,
  MigrationDestination,
  type MigrationDestinationOptions,
  MigrationSource,
  type MigrationSourceOptions,
  type SaveStateHandler,
} from '../../src/index.ts'
import { PIECES_IN_FLIGHT_MAX } from '../../src/migrate/device-saver.ts'
import { CuttingProxy } from '../support/cutting-proxy.ts'
import { filled, recordingVmm } from '../support/idle-guest.ts'
import { failure, migrateOnce, type Outcome } from '../support/migration.ts'
import { expectSamePages, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import {
  Arrived,
  inPieces,
  iterable,
  iterableInPieces,
  stateBytes,
} from '../support/state-devices.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** Moves a filled guest with these devices; RAM and nothing else must be the same. */
async function move(
  ramBytes: number,
  devices: SaveStateHandler[],
  options: Partial<MigrationSourceOptions> = {},
): Promise<{ outcome: Outcome; arrived: Arrived[] }> {
  await using from = filled(ramBytes, seed)
  await using to = GuestMemory.allocate('ram', ramBytes)
  const arrived = devices.map(({ idstr }) => new Arrived(idstr))
  const outcome = await migrateOnce({
    ...{ from, to },
    source: { devices, ...options },
    destination: { devices: arrived },
  })
  expectSamePages(to.view('ram'), from.view('ram'))
  expect(outcome.incoming.receivedBytes).toBe(outcome.result.transferredBytes)
  return { outcome, arrived }
}

function expectState(arrived: Arrived | undefined, state: Uint8Array): void {
  const got = arrived?.state ?? Buffer.alloc(0)
  expect(got.length).toBe(state.length)
  expect(got.equals(state)).toBe(true)
}

/** Rounds that the source has sent, while `work` runs. */
async function countingRounds<T>(work: (rounds: () => number) => Promise<T>): Promise<T> {
  let rounds = 0
  const count = (payload: unknown): void => {
    if ((payload as { side: string }).side === 'source') rounds += 1
  }
  subscribe('multifd:sync', count)
  try {
    return await work(() => rounds)
  } finally {
    unsubscribe('multifd:sync', count)
  }
}

describe('a device that sends while the guest runs', () => {
  it('takes its turns while round 0 is on the channels, and arrives in order', async () => {
    const state = stateBytes(4 * MIB, seed)
    const disk = iterable('disk', state, 5000)
    await countingRounds(async (rounds) => {
      const roundsAtTurn: number[] = []
      const { iterate } = disk
      disk.iterate = (budgetBytes) => {
        roundsAtTurn.push(rounds())
        return iterate(budgetBytes)
      }
      // RAM is eight times as much, and both have equal shares.
      const limit = { maxBandwidthBytesPerSecond: 100e6 }
      const { arrived, outcome } = await move(32 * MIB, [disk], limit)
      expectState(arrived[0], state)
      const iterates = disk.turns.map(() => 'iterate')
      expect(arrived[0]?.parts).toEqual(['setup', ...iterates, 'complete'])
      expect(disk.turns.length).toBeGreaterThan(2)
      expect(roundsAtTurn).toEqual(disk.turns.map(() => 0))
      const last = outcome.progress.at(-1)?.devices[0]
      expect(last).toMatchObject({ idstr: 'disk', turns: disk.turns.length })
      expect(last?.sentBytes).toBe(state.length - 5000)
    })
  })

  it('never has two turns while another one waits for its own', async () => {
    const order: string[] = []
    const names = ['disk', 'gpu', 'nic']
    const states = names.map((_, index) => stateBytes((2 + index) * MIB, seed + index))
    const devices = states.map((state, index) => {
      const device = iterable(names[index] as string, state, 0)
      const { iterate } = device
      device.iterate = (budgetBytes) => {
        order.push(device.idstr)
        return iterate(budgetBytes)
      }
      return device
    })
    const { arrived } = await move(8 * MIB, devices, { maxBandwidthBytesPerSecond: 100e6 })
    for (const [index, state] of states.entries()) expectState(arrived[index], state)
    // The shortest is done first; until then they take turns.
    const common = order.slice(0, 3 * (devices[0]?.turns.length ?? 0))
    expect(common).toEqual(common.map((_, index) => names[index % 3]))
    expect(common.length).toBeGreaterThan(3)
  })

  it('may have nothing for a while, and more to say later', async () => {
    const state = stateBytes(10_000, seed)
    const late = iterable('late', state, 100)
    const { pendingEstimate } = late
    let asked = 0
    late.pendingEstimate = () => (++asked < 4 ? 0 : pendingEstimate())
    const { arrived } = await move(MIB, [late])
    expectState(arrived[0], state)
  })
})

describe('devices of every kind at once', () => {
  const ways = [1, 2, 4].flatMap((multifdChannels) =>
    (['none', 'zlib'] as const).map((compression) => ({ multifdChannels, compression })),
  )
  it.each(ways)('arrive beside RAM: %o', async (way) => {
    const states = [3 * MIB, 2 * MIB + 1, MIB, 70_000, 0].map((length, index) =>
      stateBytes(length, seed + index),
    ) as [Uint8Array, Uint8Array, Uint8Array, Uint8Array, Uint8Array]
    const [gpu, disk, nic, rtc, none] = states
    const devices: SaveStateHandler[] = [
      inPieces('gpu', gpu, MIB),
      iterableInPieces('disk', disk, { restBytes: MIB, pieceBytes: 100_000 }),
      {
        ...inPieces('nic', nic, 0, 1000),
        // As from a thread of its own: a piece comes when it comes.
        completePieces: async function* () {
          for (let at = 0; at < MIB - 1000; at += 50_000) {
            await new Promise((resolve) => setImmediate(resolve))
            yield nic.subarray(at, Math.min(at + 50_000, MIB - 1000))
          }
        },
      },
      { idstr: 'rtc', complete: async () => rtc, load: () => {} },
      inPieces('none', none, MIB),
    ]
    const { arrived, outcome } = await move(16 * MIB, devices, way)
    for (const [index, state] of states.entries()) expectState(arrived[index], state)
    expect(arrived[0]?.parts).toEqual(['setup', 'piece', 'piece', 'piece', 'complete'])
    expect(arrived[3]?.parts).toEqual(['complete'])
    expect(arrived[4]?.parts).toEqual(['setup', 'complete'])
    const carried = outcome.incoming.channels.map(({ deviceStateBytes }) => deviceStateBytes)
    const sent = outcome.result.channels.map(({ deviceStateBytes }) => deviceStateBytes)
    expect(carried).toEqual(sent)
    expect(carried.every((bytes) => bytes > 0)).toBe(true)
    // Of the disk at least what it does not send before the stop.
    const pieces = gpu.length + nic.length
    const bytes = carried.reduce((sum, each) => sum + each, 0)
    expect(bytes).toBeGreaterThan(pieces + MIB)
    expect(bytes).toBeLessThan((pieces + disk.length) * 1.02)
  })

  it('arrive where one of them has 40 MB', async () => {
    const state = stateBytes(40 * MIB, seed)
    const { arrived } = await move(MIB, [inPieces('gpu', state, MIB, 20)], { multifdChannels: 2 })
    expectState(arrived[0], state)
    expect(arrived[0]?.parts).toHaveLength(1 + 40 + 1)
  })

  it('arrive where RAM is dirtied until the stop', async () => {
    await using from = filled(8 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 8 * MIB)
    const state = stateBytes(3 * MIB, seed)
    const arrived = new Arrived('gpu')
    const gpu: SaveStateHandler = {
      ...inPieces('gpu', state, MIB),
      // A device may write guest memory while it is saved: after that nobody does.
      complete: () => {
        from.view('ram').fill(0x5a, MIB, 2 * MIB)
        return new Uint8Array(3)
      },
    }
    const vmm = { stop: () => void from.view('ram').fill(0xa5, 0, MIB), resume: () => {} }
    await migrateOnce({
      ...{ from, to, vmm },
      source: { devices: [gpu], compression: 'zlib' },
      destination: { devices: [arrived] },
    })
    expectSamePages(to.view('ram'), from.view('ram'))
    expect(arrived.state.subarray(0, -3).equals(state)).toBe(true)
  })
})

describe('devices that load for longer than a silent peer may last', () => {
  it('are waited for: setup and complete, on the main channel', async () => {
    await using from = filled(MIB, seed)
    await using to = GuestMemory.allocate('ram', MIB)
    const state = stateBytes(1000, seed)
    const arrived = new Arrived('gpu')
    const slow: SaveStateHandler = {
      ...{ idstr: 'gpu', setup: arrived.setup, complete: arrived.complete },
      async load(bytes, part) {
        await new Promise((resolve) => setTimeout(resolve, 4 * peerTimeoutMs))
        arrived.load(bytes, part)
      },
    }
    const peerTimeoutMs = 200
    const device = { idstr: 'gpu', setup: () => state, complete: () => state }
    const outcome = await migrateOnce({
      ...{ from, to },
      source: { devices: [{ ...device, load: () => {} }], peerTimeoutMs },
      destination: { devices: [slow], peerTimeoutMs },
    })
    expect(outcome.result.status).toBe('completed')
  })
})

describe('pieces that overtake each other', () => {
  /** One channel stands still until the device has given its last piece. */
  async function overtaking(
    pieceBytes: number,
    pieces: number,
    options: Partial<MigrationDestinationOptions>,
  ) {
    const [from, to] = [filled(MIB, seed), GuestMemory.allocate('ram', MIB)]
    const state = stateBytes(pieces * pieceBytes, seed)
    const arrived = new Arrived('gpu')
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory: to, devices: [arrived], peerTimeoutMs: 1000, reconnectTimeoutMs: 0, ...options },
    })
    const proxy = await CuttingProxy.before(destination.uri)
    let given = 0
    const vmm = recordingVmm()
    const source = new MigrationSource({
      ...{ memory: from, multifdChannels: 4, reconnectTimeoutMs: 0 },
      // The main channel is the first connection; the guest stops, and one of the others stalls.
      vmm: {
        ...vmm,
        stop: () => {
          vmm.stop()
          proxy.hold(2)
        },
      },
      devices: [
        {
          ...inPieces('gpu', state, pieceBytes),
          complete: () => {
            given = pieces
            if (options.deviceQueueBytesMax === undefined) proxy.release()
            return new Uint8Array(0)
          },
        },
      ],
    })
    const migration = source.migrate(proxy.uri)
    return {
      ...{ migration, destination, arrived, state, vmm, given: () => given },
      async [Symbol.asyncDispose]() {
        await migration.result.catch(() => {})
        await destination.close()
        await proxy[Symbol.asyncDispose]()
        await from.close()
        await to.close()
      },
    }
  }

  it('are loaded in the order in which the device gave them', async () => {
    await using run = await overtaking(2000, 5 * PIECES_IN_FLIGHT_MAX, {})
    await run.migration.result
    expectState(run.arrived, run.state)
  })

  it('may not fill the destination: more than deviceQueueBytesMax fails it, by name', async () => {
    const deviceQueueBytesMax = 20_000
    await using run = await overtaking(2000, 5 * PIECES_IN_FLIGHT_MAX, { deviceQueueBytesMax })
    const error = await failure(run.destination.completed)
    expect(error.code).toBe('ERR_MULTIFD_LIMIT')
    expect(error.message).toMatch(/^device "gpu" \(instance 0\): \d+ bytes of pieces wait/)
    await failure(run.migration.result)
    expect(run.vmm.calls).toEqual(['stop', 'resume'])
  })
})
