// Migrations that break: dead, silent, resetting and refusing destinations. Before commit the
// source loses nothing; after it the guest is never resumed here.

import { createHash } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  GuestMemory,
  MigrationDestination,
  MigrationSource,
  type SaveStateHandler,
} from '../../src/index.ts'
import { MIG_CMD_SWITCHOVER_START } from '../../src/wire/constants.ts'
import { OWN_COMMAND_COMMIT } from '../../src/wire/dialect.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { DestinationChild } from '../support/child.ts'
import { emptyState, filled, recordingVmm } from '../support/idle-guest.ts'
import { needsIoUring } from '../support/io-uring.ts'
import { failure, migrateOnce } from '../support/migration.ts'
import { expectSamePages, testSeed } from '../support/pages.ts'
import { type Behaviour, RawDestination } from '../support/raw-destination.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { WriterGuest } from '../support/writer.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** The same source works at once, and nothing of the guest was lost. */
async function expectWorksNow(source: MigrationSource, from: GuestMemory): Promise<void> {
  const to = GuestMemory.allocate('ram', from.totalBytes)
  const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
    memory: to,
    devices: [emptyState],
  })
  await source.migrate(destination.uri).result
  await destination.completed
  await destination.close()
  expectSamePages(to.view('ram'), from.view('ram'))
  await to.close()
}

describe('a destination in another process', () => {
  it('gets every page of a guest that never stops writing', async () => {
    await using child = new DestinationChild({ sizeBytes: 256 * MIB, holdsLoad: false })
    await using from = filled(256 * MIB, seed)
    using guest = new WriterGuest(from.view('ram'), seed)
    guest.confine(4096)
    const source = new MigrationSource({ memory: from, vmm: guest, devices: [emptyState] })
    const { uri } = await child.report('listening')
    const { transferredBytes } = await source.migrate(uri).result
    const { sha1, receivedBytes } = await child.report('completed')
    expect(sha1).toBe(createHash('sha1').update(from.view('ram')).digest('hex'))
    expect(receivedBytes).toBe(transferredBytes)
  })

  type Moment = 'setup' | 'round 0' | 'last round' | 'before ready'
  const moments: [Moment, calls: string[], engine: 'sendmsg' | 'io-uring'][] = [
    ['setup', [], 'sendmsg'],
    ['round 0', [], 'sendmsg'],
    ['round 0', [], 'io-uring'],
    ['last round', ['stop', 'resume'], 'sendmsg'],
    ['before ready', ['stop', 'resume'], 'io-uring'],
  ]
  for (const [moment, calls, engine] of moments) {
    const zeroCopy = moment === 'round 0' ? 'on' : 'off'
    it(`is killed: ${moment}, zeroCopy ${zeroCopy}, ${engine}`, async (context) => {
      if (engine === 'io-uring') needsIoUring(context, 'sendmsgZeroCopy')
      await using child = new DestinationChild({ sizeBytes: 64 * MIB, holdsLoad: true })
      await using from = filled(64 * MIB, seed)
      using guest = new WriterGuest(from.view('ram'), seed)
      guest.confine(1024)
      const source = new MigrationSource({
        memory: from,
        vmm: guest,
        devices: [emptyState],
        engine,
        zeroCopy,
        downtimeLimitMs: 2_000_000,
      })
      const { uri } = await child.report('listening')
      // A frozen one reads nothing: what is sent stands in the kernel when it dies.
      if (moment === 'round 0') child.freeze()
      const onRound = (payload: unknown): void => {
        if (moment === 'last round' && (payload as { final: boolean }).final) child.kill()
      }
      subscribe('multifd:round', onRound)
      const migration = source.migrate(uri)
      const failed = failure(migration.result)
      if (moment === 'setup') child.kill()
      if (moment === 'round 0') {
        for await (const { transferredBytes } of migration) if (transferredBytes > MIB) break
        child.kill()
      }
      if (moment === 'before ready') {
        await child.report('loading')
        child.kill()
      }
      const error = await failed
      unsubscribe('multifd:round', onRound)
      expect(['ERR_MULTIFD_PEER_CLOSED', 'ERR_MULTIFD_CHANNEL']).toContain(error.code)
      expect(migration.status).toBe('failed')
      expect(guest.calls).toEqual(calls)
      expect(guest.running).toBe(true)
      await expectWorksNow(source, from)
    })
  }
})

/** For `Behaviour.at`: reads from no channel from the stop on, and answers nothing. */
function stopsReading(event: MainStreamEvent, peer: RawDestination): 'answer' | 'silence' {
  if (event.kind !== 'command' || event.command !== MIG_CMD_SWITCHOVER_START) return 'answer'
  for (const channel of peer.channels) channel.pause()
  peer.main?.pause()
  return 'silence'
}

describe('a silent peer', () => {
  const silences: [string, Behaviour, calls: string[]][] = [
    ['that never reads', { reads: false }, []],
    ['that stalls the channels', { readsChannels: false }, []],
    [
      'that reads all and never says ready',
      { at: ({ kind }) => (kind === 'vmdescription' ? 'silence' : 'answer') },
      ['stop', 'resume'],
    ],
  ]
  for (const [who, behaviour, calls] of silences) {
    for (const zeroCopy of ['off', 'on', 'auto'] as const) {
      const engine = zeroCopy === 'auto' ? 'io-uring' : 'sendmsg'
      it(`${who} fails the migration after peerTimeoutMs, zeroCopy ${zeroCopy}, ${engine}`, async () => {
        await using from = filled(64 * MIB, seed)
        await using peer = await RawDestination.listen(behaviour)
        const vmm = recordingVmm()
        const source = new MigrationSource({
          memory: from,
          vmm,
          engine,
          zeroCopy,
          peerTimeoutMs: 500,
        })
        const error = await failure(source.migrate(peer.uri).result)
        expect(error.code).toBe('ERR_MULTIFD_TIMEOUT')
        expect(error.message).toContain('500 ms (peerTimeoutMs)')
        expect(vmm.calls).toEqual(calls)
      })
    }
  }

  it('is noticed although keep-alives come and go, and however a device sends', async () => {
    const peerTimeoutMs = 1300 // longer than the second between keep-alives
    const ends = async (behaviour: Behaviour, device?: SaveStateHandler): Promise<string[]> => {
      await using from = filled(16 * MIB, seed)
      await using peer = await RawDestination.listen(behaviour)
      const vmm = recordingVmm()
      const devices = device === undefined ? [] : [device]
      const source = new MigrationSource({ memory: from, vmm, devices, peerTimeoutMs })
      const error = await failure(source.migrate(peer.uri).result)
      expect(error.message).toContain('1300 ms (peerTimeoutMs)')
      return vmm.calls
    }
    const [mib, large] = [new Uint8Array(MIB), 64 * MIB]
    const naming = { idstr: 'large', complete: () => mib, load: () => {} }
    const unread: Behaviour = { readsChannels: false }
    const all = await Promise.all([
      ends({ reads: false }),
      ends(unread),
      ends({ reads: false }, { ...naming, pendingEstimate: () => large, iterate: () => mib }),
      // The guest stands still meanwhile.
      ends(
        { at: stopsReading },
        { ...naming, pendingExact: () => large, completePieces: () => Array(64).fill(mib) },
      ),
    ])
    expect(all).toEqual([[], [], [], ['stop', 'resume']])
  })

  it('is no peer that a bandwidth limit makes wait, or a VMM that takes its time', async () => {
    await using from = filled(4 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 4 * MIB)
    const stop = () => new Promise<void>((resolve) => void setTimeout(resolve, 1500))
    await migrateOnce({
      from,
      to,
      vmm: { stop, resume: () => {} },
      source: { peerTimeoutMs: 1000, maxBandwidthBytesPerSecond: 8 * MIB },
    })
    expectSamePages(to.view('ram'), from.view('ram'))
  })
})

describe('a peer that breaks off', () => {
  const breaks: [string, Behaviour, calls: string[]][] = [
    [
      'resets everything in round 0',
      {
        at: (event, peer) => {
          if (event.kind === 'section-start') peer.reset()
          return 'answer'
        },
      },
      [],
    ],
    [
      'resets one channel in round 0',
      {
        at: ({ kind }, peer) => {
          if (kind === 'section-end') peer.resetChannel()
          return 'answer'
        },
      },
      [],
    ],
    [
      'closes the main channel in order, and says nothing',
      {
        at: ({ kind }, peer) => {
          if (kind !== 'vmdescription') return 'answer'
          peer.main?.end()
          return 'silence'
        },
      },
      ['stop', 'resume'],
    ],
    [
      'reports that it failed',
      {
        at: ({ kind }, peer) => {
          if (kind !== 'vmdescription') return 'answer'
          peer.main?.write(Buffer.from('0001000400000001', 'hex'))
          return 'silence'
        },
      },
      ['stop', 'resume'],
    ],
    [
      'says ready before it can have everything',
      {
        at: ({ kind }, peer) => {
          if (kind === 'ram-mem-size') peer.main?.write(Buffer.from('0001000400000000', 'hex'))
          return 'answer'
        },
      },
      [],
    ],
    [
      'answers nonsense',
      {
        at: ({ kind }, peer) => {
          if (kind === 'ram-mem-size') peer.main?.write('HTTP/1.1 400 Bad Request\r\n')
          return 'answer'
        },
      },
      [],
    ],
  ]
  for (const [what, behaviour, calls] of breaks) {
    for (const zeroCopy of ['off', 'on', 'auto'] as const) {
      const engine = zeroCopy === 'auto' ? 'io-uring' : 'sendmsg'
      it(`${what}: the guest runs on, zeroCopy ${zeroCopy}, ${engine}`, async () => {
        await using from = filled(64 * MIB, seed)
        await using peer = await RawDestination.listen(behaviour)
        const vmm = recordingVmm()
        const source = new MigrationSource({
          memory: from,
          vmm,
          engine,
          zeroCopy,
          devices: [emptyState],
          // Early answers are found out in round 0, before a stop.
          ...(calls.length === 0 ? { maxBandwidthBytesPerSecond: 64 * MIB } : {}),
        })
        const migration = source.migrate(peer.uri)
        const error = await failure(migration.result)
        expect(error.code).toMatch(/^ERR_MULTIFD_(PEER_CLOSED|CHANNEL|PROTOCOL)$/)
        expect(error.message).toMatch(/\w+ .*\w/)
        expect(vmm.calls).toEqual(calls)
        expect(migration.status).toBe('failed')
      })
    }
  }

  it('closes in the middle of loading: both sides say so, and the guest runs on', async () => {
    await using from = filled(MIB, seed)
    await using to = GuestMemory.allocate('ram', MIB)
    const vmm = recordingVmm()
    let closing: Promise<void> | undefined
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      memory: to,
      devices: [
        {
          ...emptyState,
          load: () => {
            closing = destination.close()
          },
        },
      ],
    })
    const source = new MigrationSource({ memory: from, vmm, devices: [emptyState] })
    const error = await failure(source.migrate(destination.uri).result)
    expect(error.code).toBe('ERR_MULTIFD_PEER_CLOSED')
    expect((await failure(destination.completed)).code).toBe('ERR_MULTIFD_CLOSED')
    await closing
    expect(vmm.calls).toEqual(['stop', 'resume'])
    await expectWorksNow(source, from)
  })
})

describe('after commit', () => {
  const ends: [string, Behaviour['at']][] = [
    [
      'a reset',
      ({ kind, ...event }, peer) => {
        if (kind === 'command' && 'command' in event && event.command === OWN_COMMAND_COMMIT) {
          peer.main?.resetAndDestroy()
        }
        return 'answer'
      },
    ],
    [
      'a SHUT that says failed',
      ({ kind, ...event }, peer) => {
        if (kind !== 'command' || !('command' in event)) return 'answer'
        if (event.command !== OWN_COMMAND_COMMIT) return 'answer'
        peer.main?.write(Buffer.from('0001000400000001', 'hex'))
        return 'silence'
      },
    ],
    [
      'silence',
      ({ kind, ...event }) =>
        kind === 'command' && 'command' in event && event.command === OWN_COMMAND_COMMIT
          ? 'silence'
          : 'answer',
    ],
  ]
  for (const [end, at] of ends) {
    it(`${end} leaves the guest stopped, status unknown, and tells the two ways out`, async () => {
      await using from = filled(MIB, seed)
      await using peer = await RawDestination.listen(at === undefined ? {} : { at })
      const vmm = recordingVmm()
      const source = new MigrationSource({ memory: from, vmm, peerTimeoutMs: 500 })
      const migration = source.migrate(peer.uri)
      const error = await failure(migration.result)
      expect(error.code).toBe('ERR_MULTIFD_STATE')
      expect(error.message).toContain('look whether it runs there')
      expect(error.message).toContain('resume it here by hand, never both')
      expect(migration.status).toBe('unknown')
      expect(vmm.calls).toEqual(['stop'])
    })
  }

  it('ready and a reset in one breath: whatever comes first, there is one owner', async () => {
    for (let attempt = 0; attempt < 20; attempt += 1) {
      await using from = filled(MIB, seed)
      await using peer = await RawDestination.listen({
        at: ({ kind }, { main }) => {
          if (kind !== 'vmdescription') return 'answer'
          main?.write(Buffer.from('0001000400000000', 'hex'))
          if (attempt % 2 === 0) main?.resetAndDestroy()
          else setImmediate(() => main?.resetAndDestroy())
          return 'silence'
        },
      })
      const vmm = recordingVmm()
      const migration = new MigrationSource({ memory: from, vmm }).migrate(peer.uri)
      const { code } = await failure(migration.result)
      const outcome = `${migration.status} ${code} ${vmm.calls}`
      expect([
        'unknown ERR_MULTIFD_STATE stop',
        'failed ERR_MULTIFD_PEER_CLOSED stop,resume',
      ]).toContain(outcome)
    }
  })

  it('a cancel comes too late: the migration completes', async () => {
    await using from = filled(MIB, seed)
    const aborting = new AbortController()
    await using peer = await RawDestination.listen({
      at: (event) => {
        if (event.kind === 'command' && event.command === OWN_COMMAND_COMMIT) aborting.abort()
        return 'answer'
      },
    })
    const vmm = recordingVmm()
    const source = new MigrationSource({ memory: from, vmm })
    const migration = source.migrate(peer.uri, { signal: aborting.signal })
    await migration.result
    expect(aborting.signal.aborted).toBe(true)
    expect(migration.status).toBe('completed')
    expect(vmm.calls).toEqual(['stop'])
  })
})
