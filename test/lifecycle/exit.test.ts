// How a program ends that has the addon loaded: by itself when everything is closed, with its own
// exit code in the middle of a migration, and what becomes of objects that nobody holds any more.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { MigrationDestination } from '../../src/destination.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { deferred } from '../../src/kit/deferred.ts'
import { MigrationSource } from '../../src/source.ts'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'
import { BLOCK, endOf, MIDFLIGHT_BYTES } from './held-migration.ts'

interface End {
  code: number | null
  signal: string | null
  lines: string[]
  stderr: string
}

interface Running {
  ended: Promise<End>
  /** What it has printed first. */
  firstLine: Promise<string>
}

function start(program: string[], flags: string[] = []): Running {
  const script = fileURLToPath(new URL('./child-program.ts', import.meta.url))
  const parts = [...flags, ...TYPESCRIPT_ARGUMENTS, script, ...program]
  const printed = deferred<string>()
  const ended = new Promise<End>((resolve) => {
    const options = { timeout: 40_000 }
    const child = execFile(process.execPath, parts, options, (_error, stdout, stderr) => {
      const { exitCode: code, signalCode: signal } = child
      resolve({ code, signal, stderr, lines: stdout.trim().split('\n') })
    })
    child.stdout?.once('data', (text: string) => printed.resolve(text.trim()))
  })
  return { ended, firstLine: printed.promise }
}

const run = (mode: string, ...flags: string[]): Promise<End> => start([mode], flags).ended

describe('a program', () => {
  it('ends by itself when everything was closed', async () => {
    expect(await run('ends')).toMatchObject({ code: 0, signal: null, lines: ['end'], stderr: '' })
  })

  it.each(['exit', 'exitListening', 'exitAtOnce'])('ends by process.exit (%s)', async (mode) => {
    expect(await run(mode)).toMatchObject({ code: 7, signal: null, stderr: '' })
  })

  it('ends by what a watcher of its progress throws', async () => {
    const { code, signal, stderr } = await run('throwInProgress')
    expect({ code, signal }).toEqual({ code: 1, signal: null })
    expect(stderr).toMatch(/the display broke/)
  })

  it('ends by what a trace subscriber throws', async () => {
    const { code, signal, stderr } = await run('throwInSubscriber')
    expect({ code, signal }).toEqual({ code: 1, signal: null })
    expect(stderr).toMatch(/the subscriber broke/)
  })

  it('that drops a listening destination can still migrate to it, and keeps no thread', async () => {
    const { code, lines, stderr } = await run('forgotten', '--expose-gc')
    expect(stderr).toBe('')
    expect(code).toBe(0)
    // The memory was never closed: it stays mapped.
    const census = { threads: 0, sockets: 0, eventFds: 0, mappings: 1 }
    expect(lines).toEqual(['migrated', JSON.stringify(census), 'end'])
  })

  it('that drops guest memory without closing it keeps the mapping', async () => {
    expect(await run('forgottenMemory', '--expose-gc')).toMatchObject({
      ...{ code: 0, lines: ['1', 'end'] },
    })
  })

  it('may load the addon twice', async () => {
    const { code, lines, stderr } = await run('loadedTwice')
    expect(stderr).toBe('')
    expect(code).toBe(0)
    expect(lines).toEqual(['ERR_MULTIFD_CLOSED', 'true', 'end'])
  })
})

describe('a program in the middle of a migration', () => {
  const ways: [string, { code: number | null; signal: string | null }, RegExp][] = [
    ['exit', { code: 7, signal: null }, /^$/],
    ['throw', { code: 1, signal: null }, /Error: the display broke/],
    ['sigterm', { code: null, signal: 'SIGTERM' }, /^$/],
  ]
  /** It did not crash, and said nothing but what it should. */
  const expectEnd = (end: End, [, how, stderr]: (typeof ways)[number]): void => {
    expect(end).toMatchObject(how)
    expect(end.stderr).toMatch(stderr)
  }

  it.each(ways)('as the source ends by %s, and the destination fails', async (...way) => {
    await using memory = GuestMemory.openMemfd(BLOCK, MIDFLIGHT_BYTES)
    const options = { memory, reconnectTimeoutMs: 0 }
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', options)
    expectEnd(await start(['source', way[0], destination.uri]).ended, way)
    expect(await endOf(destination.completed)).toMatch(/^ERR_MULTIFD_(PEER_CLOSED|CHANNEL)$/)
  })

  it.each(ways)('as the destination ends by %s, and the guest runs on', async (...way) => {
    await using memory = GuestMemory.openMemfd(BLOCK, MIDFLIGHT_BYTES)
    memory.view(BLOCK).fill(0x61)
    const calls: string[] = []
    const vmm = { stop: () => void calls.push('stop'), resume: () => void calls.push('resume') }
    const { ended, firstLine } = start(['destination', way[0]])
    const source = new MigrationSource({ memory, vmm, maxBandwidthBytesPerSecond: 32e6 })
    const { result } = source.migrate(await firstLine)
    expect(await endOf(result)).toMatch(/^ERR_MULTIFD_(PEER_CLOSED|CHANNEL)$/)
    expect(calls).toEqual([])
    expectEnd(await ended, way)
  })
})
