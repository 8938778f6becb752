// `multifd receive` without a QEMU: wrong usage, an interrupt, and a directory that is not free.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { cliCommand, runCli } from './run-cli.ts'

let scratch = ''
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-receive-'))
})
afterEach(() => rmSync(scratch, { recursive: true, force: true }))

const out = (): string => join(scratch, 'snapshot')
const uri = 'tcp:127.0.0.1:0'

describe('multifd receive', () => {
  it.each([
    [['receive', uri], '--out'],
    [['receive', '--out', 'OUT'], "missing required argument 'uri'"],
    [['receive', uri, '--out', 'OUT', '--channels', '256'], 'a whole number from 0 to 255'],
    [['receive', uri, '--out', 'OUT', '--compression', 'lz4'], 'none, zlib, zstd'],
    [['receive', uri, '--out', 'OUT', '--uuid', '1'], 'xxxxxxxx-xxxx'],
    [['receive', 'http://x', '--out', 'OUT'], 'not a migration URI'],
    [['receive', uri, '--out', 'OUT', '--report', '/no/page.html'], 'cannot be written (ENOENT)'],
  ])('refuses %j with exit code 2', async (args, problem) => {
    const end = await runCli(...args.map((arg) => (arg === 'OUT' ? out() : arg)))
    expect(end.stderr).toContain(problem)
    expect(end.stderr).toContain('Options of receive: --out')
    expect(end).toMatchObject({ exitCode: 2, stdout: '' })
    expect(existsSync(out())).toBe(false)
  })

  it('fails with exit code 1 where something is stored, and beyond this machine', async () => {
    writeFileSync(join(scratch, 'something'), '')
    const occupied = await runCli('receive', uri, '--out', scratch, '--json')
    expect(JSON.parse(occupied.stdout)).toMatchObject({ code: 'ERR_MULTIFD_SNAPSHOT' })
    expect(occupied.stderr).toMatch(/^multifd: the directory .* holds something already/)
    expect(occupied.exitCode).toBe(1)
    const beyond = await runCli('receive', 'tcp:0.0.0.0:0', '--out', out())
    expect(beyond.stderr).toMatch(/--allow-plaintext|allowPlaintext/)
    expect(beyond.exitCode).toBe(1)
  })

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('ends with %s: exit code %i, and nothing is left', async (signal, exitCode) => {
    const [file = '', ...args] = cliCommand('receive', uri, '--out', out(), '--json')
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text) => {
      if (!stderr.includes('by QMP') && `${stderr}${text}`.includes('by QMP')) child.kill(signal)
      stderr += text
    })
    const [code] = await once(child, 'close')
    expect(stderr).toMatch(/"execute":"migrate","arguments":\{"uri":"tcp:127\.0\.0\.1:\d+"\}/)
    expect(stderr).toContain('migrate_set_capability return-path on')
    expect(stderr).toContain('The guest runs on at the source.')
    expect(JSON.parse(stdout)).toMatchObject({ status: 'failed', code: 'ERR_MULTIFD_ABORTED' })
    expect(code).toBe(exitCode)
    expect(existsSync(out())).toBe(false)
  })
})
