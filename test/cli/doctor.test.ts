// `multifd doctor` from outside, on this machine: as root, as an ordinary user with little locked
// memory and no io_uring, without the addon, and on the rig, whose answers are known.

import { beforeAll, describe, expect, it, test } from 'vitest'
import type { Rig } from '../../bench/rig.ts'
import type { Finding } from '../../src/cli/doctor/finding.ts'
import type { Diagnosis } from '../../src/cli/doctor/judge.ts'
import { freshUser, runRestricted } from '../support/restricted.ts'
import { rigOrSkip } from '../support/rig.ts'
import { type CliEnd, cliCommand, run, runCli } from './run-cli.ts'

function diagnosisOf({ stdout, stderr }: Pick<CliEnd, 'stdout' | 'stderr'>): Diagnosis {
  expect(stderr).toBe('')
  return JSON.parse(stdout) as Diagnosis
}

function finding({ findings }: Diagnosis, id: string): Finding | undefined {
  return findings.find((each) => each.id === id)
}

// What is compiled is kept below the checkout, where an ordinary user may not write.
beforeAll(() => runCli('--version'))

describe('on this machine', () => {
  it('prints a text that ends with what a migration will use', async () => {
    const { exitCode, stdout, stderr } = await run(cliCommand('doctor'), { FORCE_COLOR: '1' })
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
    expect(stdout).toMatch(/^ok +kernel +Linux \d/)
    expect(stdout.replaceAll('\n', ' ')).toMatch(/ missing\. A migration from here will .*\. $/)
    expect(stdout).not.toContain(String.fromCharCode(27)) // no terminal, no colours
  })

  it('prints one JSON object, and finds that the loopback copies', async () => {
    const end = await runCli('doctor', '--json')
    expect(end.exitCode).toBe(0)
    expect(end.stdout.trimEnd()).not.toContain('\n')
    const diagnosis = diagnosisOf(end)
    expect(diagnosis).toMatchObject({ command: 'doctor', canMigrate: true })
    for (const each of diagnosis.findings) {
      expect(each).toMatchObject({
        id: expect.any(String),
        title: expect.any(String),
        status: expect.stringMatching(/^(ok|warning|missing)$/),
        value: expect.any(String),
        details: expect.any(Object),
        meaning: expect.any(String),
      })
    }
    expect(finding(diagnosis, 'zero-copy:lo')?.details).toMatchObject({ verdict: 'copied' })
    expect(finding(diagnosis, 'dirty-tracking')).toBeDefined()
    expect(finding(diagnosis, 'io-uring')).toBeDefined()
  })

  it('--no-probe tries no interface', async () => {
    const { findings } = diagnosisOf(await runCli('doctor', '--json', '--no-probe'))
    expect(findings.filter(({ id }) => id.startsWith('zero-copy:'))).toEqual([])
    expect(findings.map(({ id }) => id)).toContain('locked-memory')
  })

  it('without the addon still says what it knows, and how to get the addon', async () => {
    const environment = { MULTIFD_NATIVE: '/nowhere/multifd.node' }
    const end = await run(cliCommand('doctor', '--json'), environment)
    expect(end.exitCode).toBe(1)
    const diagnosis = diagnosisOf(end)
    expect(diagnosis.canMigrate).toBe(false)
    expect(diagnosis.summary).toContain('native addon')
    const addon = finding(diagnosis, 'addon')
    expect(addon).toMatchObject({ status: 'missing', required: true })
    expect(addon?.meaning).toContain('/nowhere/multifd.node')
    expect(addon?.fix).toContain('npm rebuild')
    expect(finding(diagnosis, 'option-memory')).toBeDefined()
  })
})

test('an ordinary user with 8 MiB of locked memory and no io_uring reads both, and why', async (context) => {
  const end = await runRestricted(
    {
      user: freshUser(),
      memlockBytes: 8 * 2 ** 20,
      deny: [{ calls: 'io_uring', error: 'EPERM' }],
    },
    new URL('./doctor-program.ts', import.meta.url),
    ['doctor', '--json'],
  )
  if ('cannot' in end) return context.skip(end.cannot)
  expect(end.code).toBe(0)
  const diagnosis = diagnosisOf(end)
  expect(finding(diagnosis, 'locked-memory')).toMatchObject({ status: 'warning', value: '8 MiB' })
  expect(finding(diagnosis, 'io-uring')).toMatchObject({ status: 'missing' })
  expect(finding(diagnosis, 'io-uring')?.meaning).toContain('seccomp')
  expect(finding(diagnosis, 'zero-copy:lo')?.details).toMatchObject({ verdict: 'copied' })
  expect(diagnosis.canMigrate).toBe(true)
})

describe('on the rig', () => {
  const ask = async (rig: Rig): Promise<Finding | undefined> => {
    const diagnosis = diagnosisOf(await run(rig.source.command(cliCommand('doctor', '--json'))))
    expect(finding(diagnosis, 'zero-copy:lo')?.details).toMatchObject({ verdict: 'copied' })
    return finding(diagnosis, `zero-copy:${rig.source.device}`)
  }

  it('nothing is copied, until somebody listens with a packet socket', async (context) => {
    await using rig = await rigOrSkip(context)
    expect(await ask(rig)).toMatchObject({ status: 'ok', details: { verdict: 'not-copied' } })
    await using _ = await rig.openPacketSocket()
    const listened = await ask(rig)
    expect(listened).toMatchObject({ details: { verdict: 'copied', packetSockets: 1 } })
    expect(listened?.fix).toContain('ss -0 -p')
  })

  it('a plain veth copies, and that it is one is said', async (context) => {
    await using plain = await rigOrSkip(context, { xdp: false })
    const plainPair = await ask(plain)
    expect(plainPair).toMatchObject({ status: 'warning', details: { verdict: 'copied' } })
    expect(plainPair?.meaning).toContain('veth')
  })
})
