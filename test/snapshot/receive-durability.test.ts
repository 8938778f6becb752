// What the source is told, and when: nothing of success before everything is on the disk, in a
// directory that a reader takes for a snapshot.

import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { deferred } from '../../src/kit/deferred.ts'
import { isHashed, snapshotFiles } from '../../src/snapshot/manifest.ts'
import type { ReceiveSnapshotOptions } from '../../src/snapshot/receive-options.ts'
import { type Reception, receiveDurably } from '../../src/snapshot/receive-snapshot.ts'
import {
  type Durability,
  kernelDurability,
  readManifest,
  verifySnapshot,
} from '../../src/snapshot/snapshot-directory.ts'
import type { RawConnection } from '../migrate/raw-peer.ts'
import { vectorNamed } from '../wire/vectors.ts'
import { QemuPeer, recordingOf, withReturnPath } from './qemu-peer.ts'

const ACK = '00070000'
const PONG = '000200040000abcd'
const SHUT_OK = '0001000400000000'
const SHUT_FAILED = '0001000400000001'
const legacy = withReturnPath(recordingOf(vectorNamed('q72-legacy-none')))
const modern = recordingOf(vectorNamed('q102-modern-returnpath'))

let scratch = ''
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-durable-'))
})
afterEach(() => rmSync(scratch, { recursive: true, force: true }))

const snapshot = (): string => join(scratch, 'snapshot')

function receive(
  durability: Partial<Durability> = {},
  options: Partial<ReceiveSnapshotOptions> = {},
): Promise<Reception> {
  const all = { ...kernelDurability, ...durability }
  return receiveDurably('tcp:127.0.0.1:0', { directory: snapshot(), ...options }, all)
}

const said = (main: RawConnection): string => main.received.toString('hex')

describe('SHUT(0)', () => {
  it('comes when every file, the manifest and the directories are durable, not before', async () => {
    const order: string[] = []
    let main: RawConnection | undefined
    const note = (what: string): void => {
      order.push(what)
      if (main !== undefined && !released) expect(said(main)).not.toContain(SHUT_OK)
    }
    let released = false
    const last = deferred()
    const lastBegun = deferred()
    await using reception = await receive({
      sync: async (path) => {
        await kernelDurability.sync(path)
        note(path === scratch ? 'parent' : path.slice(snapshot().length + 1) || 'directory')
        if (path !== scratch) return
        lastBegun.resolve()
        await last.promise
      },
      rename: async (from, to) => {
        await rename(from, to)
        note('rename')
      },
    })
    await using peer = new QemuPeer(reception.uri)
    main = await peer.play(legacy)
    await lastBegun.promise
    const ram = vectorNamed('q72-legacy-none').main.sequence.flatMap((step) => {
      if (typeof step === 'string' || !('words' in step)) return []
      return step.words.flatMap((word) => {
        return typeof word === 'object' && 'blocks' in word ? word.blocks : []
      })
    })
    expect(order.filter((what) => what.startsWith('ram/')).length).toBe(ram.length)
    const inOrder = order.filter((what) => !/^(ram\/|config|devices)/.test(what))
    expect(inOrder).toEqual(['manifest.json.next', 'ram', 'rename', 'directory', 'parent'])
    // Some turns of the event loop: whoever wanted to speak would have.
    for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve))
    expect(said(main)).toBe(PONG)
    const stored = await readManifest(snapshot())
    expect(isHashed(stored)).toBe(false) // RAM is not hashed yet, and nobody waits for that
    released = true
    last.resolve()
    const { manifest } = await reception.result
    expect(said(main)).toBe(PONG + SHUT_OK)
    expect(manifest.createdAt).toBe(stored.createdAt)
    expect((await verifySnapshot(snapshot())).hashed).toBe(true)
    // A guest's registers are as secret as its RAM.
    for (const { path } of [...snapshotFiles(manifest), { path: 'manifest.json' }]) {
      expect(statSync(join(snapshot(), path)).mode & 0o777, path).toBe(0o600)
    }
  })

  it.each(['config.bin', 'ram', 'manifest.json.next', ''])(
    'never comes when the disk fails at "%s"; SHUT(1) does',
    async (where) => {
      const failing = join(snapshot(), where)
      await using reception = await receive({
        sync: async (path) => {
          if (path !== failing) return kernelDurability.sync(path)
          throw Object.assign(new Error('EIO: i/o error'), { code: 'EIO', syscall: 'fsync' })
        },
      })
      await using peer = new QemuPeer(reception.uri)
      const main = await peer.play(legacy)
      await expect(reception.result).rejects.toMatchObject({
        code: 'ERR_MULTIFD_SNAPSHOT',
        errno: 'EIO',
        syscall: 'fsync',
      })
      await main.gone
      expect(said(main)).toBe(PONG + SHUT_FAILED)
      expect(existsSync(snapshot())).toBe(false)
    },
  )

  it('never comes when the caller cancels while the disk works', async () => {
    const abort = new AbortController()
    const options = { signal: abort.signal }
    let syncs = 0
    await using reception = await receive(
      {
        sync: async (path) => {
          syncs += 1
          if (syncs === 3) abort.abort(new Error('no more'))
          await kernelDurability.sync(path)
        },
      },
      options,
    )
    await using peer = new QemuPeer(reception.uri)
    const main = await peer.play(legacy)
    await expect(reception.result).rejects.toMatchObject({ code: 'ERR_MULTIFD_ABORTED' })
    await main.gone
    expect(said(main)).toBe(PONG + SHUT_FAILED)
    expect(existsSync(snapshot())).toBe(false)
  })

  it('is no matter without a return path: what came whole is kept, whoever cancels', async () => {
    const abort = new AbortController()
    let syncs = 0
    await using reception = await receive(
      {
        sync: async (path) => {
          syncs += 1
          if (syncs === 3) abort.abort(new Error('no more'))
          await kernelDurability.sync(path)
        },
      },
      { signal: abort.signal, allowNoReturnPath: true },
    )
    await using peer = new QemuPeer(reception.uri)
    await peer.play(recordingOf(vectorNamed('q72-legacy-none')))
    const { hashed, warnings } = await reception.result
    expect(abort.signal.aborted).toBe(true)
    expect(hashed).toBe(false)
    expect(warnings).toEqual([
      expect.stringContaining('no return path'),
      expect.stringContaining('hashing was cancelled'),
    ])
    expect((await verifySnapshot(snapshot())).hashed).toBe(false)
  })

  it('stands when the caller cancels behind it: the snapshot stays, without hashes', async () => {
    const abort = new AbortController()
    await using reception = await receive({}, { signal: abort.signal })
    await using peer = new QemuPeer(reception.uri)
    const main = await peer.play(legacy)
    for await (const { status } of reception) if (status === 'hashing') break
    abort.abort(new Error('no more'))
    const { hashed, warnings } = await reception.result
    expect(said(main)).toBe(PONG + SHUT_OK)
    expect(hashed).toBe(false)
    expect(warnings).toEqual([expect.stringContaining('hashing was cancelled')])
    expect((await verifySnapshot(snapshot())).hashed).toBe(false)
  })
})

describe('the return path', () => {
  it('carries SWITCHOVER_ACK, PONG and SHUT to a source that may wait for the first', async () => {
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    const main = await peer.play(modern)
    await reception.result
    expect(said(main)).toBe(`${ACK}0002000400000001${SHUT_OK}`)
  })

  it('carries no SWITCHOVER_ACK to a source that may be too old, unless told to', async () => {
    for (const switchoverAck of [false, true]) {
      await using reception = await receive({}, { switchoverAck })
      await using peer = new QemuPeer(reception.uri)
      const main = await peer.play(legacy)
      await reception.result
      expect(said(main)).toBe((switchoverAck ? ACK : '') + PONG + SHUT_OK)
      rmSync(snapshot(), { recursive: true })
    }
  })
})

describe('progress', () => {
  it('tells every status in order, and grows', async () => {
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    const events = (async () => {
      const seen = []
      for await (const event of reception) seen.push(event)
      return seen
    })()
    await peer.play(legacy)
    const { receivedBytes, normalPages, zeroPages } = await reception.result
    const seen = await events
    const statuses = seen.map(({ status }) => status)
    expect([...new Set(statuses)]).toEqual([
      'listening',
      'receiving',
      'storing',
      'hashing',
      'completed',
    ])
    expect(seen.at(-1)).toMatchObject({ receivedBytes, normalPages, zeroPages })
    for (const [index, event] of seen.entries()) {
      expect(event.receivedBytes).toBeGreaterThanOrEqual(seen[index - 1]?.receivedBytes ?? 0)
    }
  })
})
