// How a program ends that has the addon loaded: by itself when everything is closed, with its own
// exit code in the middle of a migration, and what becomes of objects that nobody holds any more.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'

interface End {
  code: number | null
  signal: string | null
  lines: string[]
  stderr: string
}

function run(mode: string, ...flags: string[]): Promise<End> {
  const script = fileURLToPath(new URL('./child-program.ts', import.meta.url))
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...flags, ...TYPESCRIPT_ARGUMENTS, script, mode],
      { timeout: 40_000 },
      (_error, stdout, stderr) => {
        const { exitCode: code, signalCode: signal } = child
        resolve({ code, signal, stderr, lines: stdout.trim().split('\n') })
      },
    )
  })
}

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
