// Devices that throw, hang or do not keep to what they said, on either side: the error names device
// and call, the guest runs on, and nothing is left.

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  type Device,
  GuestMemory,
  MigrationDestination,
  MigrationSource,
  type MigrationSourceOptions,
  type SaveStateHandler,
} from '../../src/index.ts'
import { filled, recordingVmm } from '../support/idle-guest.ts'
import { failure } from '../support/migration.ts'
import { testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { Arrived, inPieces, iterableInPieces, stateBytes } from '../support/state-devices.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

type Call = keyof SaveStateHandler
const never = (): Promise<never> => new Promise(() => {})
const burn = (): never => {
  throw new Error('on fire')
}

describe('a device that fails', () => {
  /** Runs into the failure, which must leave the guest running here. Both sides' errors. */
  async function run(
    source: Partial<SaveStateHandler>,
    destination: Partial<SaveStateHandler> = {},
    options: Partial<MigrationSourceOptions> = {},
  ): Promise<{ here: Error; there: Error; calls: string[] }> {
    await using from = filled(4 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 4 * MIB)
    const vmm = recordingVmm()
    const state = stateBytes(3 * MIB, seed)
    const sizes = { restBytes: 2 * MIB, pieceBytes: 100_000 }
    const device = { ...iterableInPieces('gpu', state, sizes), ...source }
    const other: SaveStateHandler = { ...inPieces('nic', state, MIB) }
    const arrived: SaveStateHandler[] = [new Arrived('gpu'), new Arrived('nic')].map((each) => ({
      ...{ idstr: each.idstr, complete: each.complete, setup: each.setup },
      load: (state, part) => each.load(state, part),
      ...(each.idstr === 'gpu' ? destination : {}),
    }))
    await using target = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory: to, devices: arrived, deviceTimeoutMs: 100 },
    })
    const migration = new MigrationSource({
      ...{ memory: from, vmm, devices: [device, other], deviceTimeoutMs: 100 },
      ...options,
    }).migrate(target.uri)
    const [here, there] = await Promise.all([failure(migration.result), failure(target.completed)])
    expect(migration.status).toBe('failed')
    expect(target.status).toBe('failed')
    return { here, there, calls: vmm.calls }
  }

  const stopped = ['stop', 'resume']
  const calls: [Call, boolean, string[]][] = [
    ['setup', true, []],
    ['pendingEstimate', false, []],
    ['pendingExact', true, []],
    ['iterate', true, []],
    ['completePieces', true, stopped],
    ['complete', true, stopped],
  ]
  for (const [call, mayHang, expected] of calls) {
    it(`in ${call} at the source is named there, and the guest runs on`, async () => {
      const { here, there, calls } = await run({ [call]: burn })
      expect(here).toMatchObject({
        ...{ code: 'ERR_MULTIFD_VMM' },
        message: `${call} of device "gpu" (instance 0) failed: on fire`,
      })
      expect(there).toMatchObject({ code: 'ERR_MULTIFD_PEER_CLOSED' })
      expect(calls).toEqual(expected)
    })
    if (!mayHang) continue
    it(`by hanging in ${call} at the source is named there`, async () => {
      const hang =
        call === 'completePieces'
          ? async function* () {
              yield await never()
            }
          : never
      const { here, calls } = await run({ [call]: hang })
      expect(here.message).toContain(`${call} of device "gpu" (instance 0) took longer than 100 ms`)
      expect(calls).toEqual(expected)
    })
  }

  const lies: [string, Partial<SaveStateHandler>, RegExp, string[]][] = [
    [
      'more than its budget',
      { iterate: (most) => new Uint8Array(most + 1) },
      /iterate .*at most/,
      [],
    ],
    [
      'nothing, though it says there is',
      { iterate: () => new Uint8Array(0) },
      /iterate .*gave nothing/,
      [],
    ],
    [
      'more than it had said',
      { pendingExact: () => 0 },
      /complete .*pendingExact had said 0/,
      stopped,
    ],
    [
      'a piece of 2 MiB',
      { completePieces: () => [new Uint8Array(2 * MIB)] },
      /completePieces .*at most/,
      stopped,
    ],
    ['a text', { complete: () => 'x' as unknown as Uint8Array }, /complete .*gave "x"/, stopped],
  ]
  for (const [what, part, sentence, expected] of lies) {
    it(`by giving ${what} is named`, async () => {
      // At this limit the guest does not stop while something is said to remain.
      const { here, calls } = await run(
        part,
        {},
        expected.length === 0 ? { downtimeLimitMs: 0 } : {},
      )
      expect(here).toMatchObject({ code: 'ERR_MULTIFD_VMM' })
      expect(here.message).toMatch(sentence)
      expect(here.message).toContain('device "gpu" (instance 0)')
      expect(calls).toEqual(expected)
    })
  }

  const parts = [
    ['setup', []],
    ['iterate', []],
    ['piece', stopped],
    ['complete', stopped],
  ] as const
  for (const [part, expected] of parts) {
    for (const [how, what] of [
      ['throwing', burn],
      ['hanging', never],
    ] as const) {
      it(`by ${how} while it loads its ${part} is named at the destination`, async () => {
        const { here, there, calls } = await run(
          {},
          { load: (_state, now) => (now === part ? what() : undefined) },
        )
        expect(there.message).toMatch(/^load of device "gpu" \(instance 0\) (failed: on fire|took)/)
        // Or a channel that its destination closed is noticed first.
        expect(here.message).toMatch(/failed there \(SHUT 1\)|EPIPE|ECONNRESET|broke|closed/)
        expect(calls).toEqual(expected)
      })
    }
  }

  it('in switchoverAck is named at the destination, and the guest never stops', async () => {
    const { there, calls } = await run({}, { switchoverAck: async () => burn() })
    expect(there.message).toBe('switchoverAck of device "gpu" (instance 0) failed: on fire')
    expect(calls).toEqual([])
  })

  it('to be there: the destination names the one that it lacks, and the one that did not come', async () => {
    for (const [sent, expected] of [
      [['a', 'b'], ['a']],
      [['a'], ['a', 'b']],
    ] as const) {
      await using from = filled(MIB, seed)
      await using to = GuestMemory.allocate('ram', MIB)
      const device = (idstr: string): Device => {
        return { idstr, save: () => new Uint8Array(1), load: () => {} }
      }
      await using target = await MigrationDestination.listen('tcp:127.0.0.1:0', {
        ...{ memory: to, devices: expected.map(device) },
      })
      const vmm = recordingVmm()
      const source = new MigrationSource({ memory: from, vmm, devices: sent.map(device) })
      await failure(source.migrate(target.uri).result)
      expect((await failure(target.completed)).message).toMatch(/device "b" \(instance 0\)/)
      expect(vmm.calls).toEqual(stopped)
    }
  })
})
