// VMM callbacks that throw: the error names the callback and keeps the cause, and the guest runs
// on.

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  type Device,
  GuestMemory,
  MigrationDestination,
  MigrationSource,
  type Vmm,
} from '../../src/index.ts'
import { emptyState, filled, recordingVmm } from '../support/idle-guest.ts'
import { failure } from '../support/migration.ts'
import { testSeed } from '../support/pages.ts'
import { RawDestination } from '../support/raw-destination.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

describe('VMM callbacks that throw', () => {
  const thrown = new Error('the machine is on fire')
  const burn = (): never => {
    throw thrown
  }
  const cases: [string, Partial<Vmm>, Partial<Device>, calls: string[]][] = [
    ['stopping the guest', { stop: burn }, {}, ['resume']],
    ['save of device "cpu" (instance 0)', {}, { save: async () => burn() }, ['stop', 'resume']],
  ]
  for (const [what, vmmPart, devicePart, calls] of cases) {
    it(`${what}: named, with the cause, and the guest runs on`, async () => {
      await using from = filled(MIB, seed)
      await using to = GuestMemory.allocate('ram', MIB)
      const recording = recordingVmm()
      const vmm = { ...recording, ...vmmPart }
      await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
        memory: to,
        devices: [emptyState],
      })
      const devices = [{ ...emptyState, ...devicePart }]
      const source = new MigrationSource({ memory: from, vmm, devices })
      const error = await failure(source.migrate(destination.uri).result)
      expect(error.code).toBe('ERR_MULTIFD_VMM')
      expect(error.message).toBe(`${what} failed: the machine is on fire`)
      expect(error.cause).toBe(thrown)
      expect(recording.calls).toEqual(calls)
      expect((await failure(destination.completed)).code).toBe('ERR_MULTIFD_PEER_CLOSED')
    })
  }

  it('resuming: both failures are told', async () => {
    await using from = filled(MIB, seed)
    await using peer = await RawDestination.listen()
    const vmm = { stop: () => {}, resume: burn }
    const devices = [{ ...emptyState, save: () => 'text' as unknown as Uint8Array }]
    const source = new MigrationSource({ memory: from, vmm, devices })
    const error = await failure(source.migrate(peer.uri).result)
    expect(error.code).toBe('ERR_MULTIFD_VMM')
    expect(error.message).toContain('resuming the guest failed: the machine is on fire')
    expect(error.message).toContain('before that: save of device "cpu" (instance 0) gave "text"')
  })

  it('loading: named at the destination, and the guest runs on at the source', async () => {
    await using from = filled(MIB, seed)
    await using to = GuestMemory.allocate('ram', MIB)
    const vmm = recordingVmm()
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      memory: to,
      devices: [{ ...emptyState, load: burn }],
    })
    const source = new MigrationSource({ memory: from, vmm, devices: [emptyState] })
    const sent = failure(source.migrate(destination.uri).result)
    const error = await failure(destination.completed)
    expect(error.code).toBe('ERR_MULTIFD_VMM')
    expect(error.message).toContain('load of device "cpu" (instance 0) failed: the machine is')
    expect((await sent).message).toContain('the migration failed there (SHUT 1)')
    expect(vmm.calls).toEqual(['stop', 'resume'])
    expect(destination.status).toBe('failed')
  })
})
