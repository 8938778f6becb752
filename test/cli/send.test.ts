// `multifd send` without a QEMU: wrong usage, what it prints, and how it ends.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { formatManifest } from '../../src/snapshot/manifest.ts'
import { readManifest } from '../../src/snapshot/snapshot-directory.ts'
import { ReplayDestination } from '../support/replay-destination.ts'
import { contentsOf, storeSnapshot } from '../support/vector-snapshot.ts'
import { cliCommand, runCli } from './run-cli.ts'

let scratch = ''
let snapshot = ''
beforeEach(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-send-'))
  snapshot = join(scratch, 'vm')
  await storeSnapshot(snapshot, contentsOf('q72-legacy-none'))
})
afterEach(() => rmSync(scratch, { recursive: true, force: true }))

const uri = 'tcp:127.0.0.1:1'
const legacy = { channels: 2, dialect: 'per-section' } as const

describe('multifd send', () => {
  it.each([
    [['send'], "missing required argument 'dir'"],
    [['send', 'DIR'], "missing required argument 'uri'"],
    [['send', 'DIR', uri, '--channels', '256'], 'a whole number from 0 to 255'],
    [['send', 'DIR', uri, '--compression', 'lz4'], 'none, zlib, zstd'],
    [['send', 'DIR', uri, '--level', '3'], "compressionLevel is for compression 'zlib'"],
    [['send', 'DIR', uri, '--dialect', 'modern'], 'per-section, per-round'],
    [['send', 'DIR', uri, '--engine', 'rdma'], 'auto, sendmsg, io-uring'],
    [['send', 'DIR', uri, '--uuid', '1'], 'xxxxxxxx-xxxx'],
    [['send', 'DIR', 'http://x'], 'not a migration URI'],
  ])('refuses %j with exit code 2', async (args, problem) => {
    const end = await runCli(...args.map((arg) => (arg === 'DIR' ? snapshot : arg)))
    expect(end.stderr).toContain(problem)
    expect(end.stderr).toContain('Options of send: --channels')
    expect(end).toMatchObject({ exitCode: 2, stdout: '' })
  })

  it('says what QEMU needs, and that the guest is there', async () => {
    await using destination = await ReplayDestination.listen(legacy)
    const end = await runCli('send', snapshot, destination.uri, '--paused')
    expect(end.stderr).toContain('-machine pc-q35-7.2 -m 4M ... -incoming defer')
    expect(end.stderr).toContain('migrate_set_parameter multifd-channels 2')
    expect(end.stderr).toContain('{"execute":"migrate-incoming"')
    expect(end.stdout).toMatch(/^The guest is there, paused: tcp:127\.0\.0\.1:\d+, .* in .* s\.\n$/)
    expect(end.exitCode).toBe(0)
    expect(destination.tail.includes('paused\0')).toBe(true)
  })

  it('warns of a snapshot that was never hashed', async () => {
    await using destination = await ReplayDestination.listen(legacy)
    const hashed = await runCli('send', snapshot, uri)
    expect(hashed.stderr).not.toContain('no hashes')
    const manifest = await readManifest(snapshot)
    const ram = manifest.ram.map((file) => ({ ...file, hash: null }))
    writeFileSync(join(snapshot, 'manifest.json'), formatManifest({ ...manifest, ram }))
    const end = await runCli('send', snapshot, destination.uri)
    expect(end.stderr).toMatch(
      /warning: the snapshot has no hashes .* does not run on at the source/,
    )
    expect(end.exitCode).toBe(0)
  })

  it('ends with 1 if one of several fails, and says which', async () => {
    await using destination = await ReplayDestination.listen(legacy)
    const page = join(scratch, 'page.html')
    const end = await runCli('send', snapshot, uri, destination.uri, '--json', '--report', page)
    expect(end.stderr).toMatch(/multifd: tcp:127\.0\.0\.1:1: connecting to .* failed/)
    expect(end.exitCode).toBe(1)
    expect(readFileSync(page, 'utf8')).toMatch(
      /failed: tcp:127\.0\.0\.1:1: connecting to .* failed/,
    )
    const { destinations } = JSON.parse(end.stdout)
    expect(destinations).toMatchObject([
      { uri, status: 'failed', error: { code: 'ERR_MULTIFD_CHANNEL' } },
      { uri: destination.uri, status: 'completed', dialect: 'per-section' },
    ])
  })

  it('ends with 1 if there is no snapshot, or a damaged one, and sends nothing', async () => {
    await using destination = await ReplayDestination.listen(legacy)
    const none = await runCli('send', scratch, destination.uri, '--json')
    expect(none.stderr).toMatch(/multifd: .* is no snapshot/)
    expect(none.exitCode).toBe(1)
    expect(JSON.parse(none.stdout)).toMatchObject({ code: 'ERR_MULTIFD_SNAPSHOT' })
    writeFileSync(join(snapshot, 'devices.bin'), '')
    const damaged = await runCli('send', snapshot, destination.uri)
    expect(damaged.stderr).toMatch(/devices\.bin has 0 bytes/)
    expect(damaged).toMatchObject({ exitCode: 1, stdout: '' })
    expect(destination.connections).toBe(0)
  })

  it('ends with SIGINT: exit code 130', async () => {
    const begun = new AbortController()
    await using destination = await ReplayDestination.listen({
      ...legacy,
      at: () => {
        begun.abort()
        return 'silence'
      },
    })
    const [file = '', ...args] = cliCommand('send', snapshot, destination.uri)
    const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text
    })
    begun.signal.addEventListener('abort', () => child.kill('SIGINT'))
    const [code] = await once(child, 'close')
    expect(stderr).toMatch(/was cancelled by its caller/)
    expect(code).toBe(130)
  })
})
