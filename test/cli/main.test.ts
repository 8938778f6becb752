// The command line as a whole: what it does with what it does not know.

import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { cliCommand, run, runCli } from './run-cli.ts'

const root = new URL('../../', import.meta.url)
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8')

describe('multifd', () => {
  it('is what the package installs: compiled, executable, run by node', () => {
    const { bin, scripts } = JSON.parse(read('package.json'))
    expect(bin).toEqual({ multifd: 'dist/src/cli/main.js' })
    expect(read('src/cli/main.ts')).toMatch(/^#!\/usr\/bin\/env node\n/)
    // npm does it only when it links a package, not when a checkout is compiled again.
    expect(scripts['build:ts']).toContain(`chmod +x ${bin.multifd}`)
  })

  it.each([
    [[], 'no command was named', 'Commands: doctor'],
    [['docter'], "unknown command 'docter'", 'Commands: doctor'],
    [['--verbose'], "unknown option '--verbose'", 'Commands: doctor'],
    [['doctor', '--jsn'], "unknown option '--jsn'", 'Options of doctor: --json, --no-probe'],
    [['doctor', 'eth0'], 'too many arguments', 'Options of doctor'],
  ])('refuses %j with exit code 2, and says what there is', async (args, problem, known) => {
    const { exitCode, stdout, stderr } = await runCli(...args)
    expect(stderr).toContain(problem)
    expect(stderr).toContain(known)
    expect(stderr.trimEnd().split('\n')).toHaveLength(2)
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
  })

  it('--help names every command, and each command its options and exit codes', async () => {
    const program = await runCli('--help')
    expect(program).toMatchObject({ exitCode: 0, stderr: '' })
    expect(program.stdout).toMatch(/^ {2}doctor /m)
    const doctor = await runCli('doctor', '--help')
    expect(doctor).toMatchObject({ exitCode: 0, stderr: '' })
    for (const part of ['--json', '--no-probe', 'one datagram', 'Exit codes: 0']) {
      expect(doctor.stdout).toContain(part)
    }
  })

  it('goes on when nobody reads its output any more, and says that it could not be written', async () => {
    const command = cliCommand('doctor', '--no-probe')
    const left = await run(['sh', '-c', '("$@"; echo $? >&2) | true', 'sh', ...command])
    expect(left).toMatchObject({ stdout: '', stderr: '0\n' })
    const full = await run(['sh', '-c', '"$@" > /dev/full', 'sh', ...command])
    expect(full).toEqual({ exitCode: 1, stdout: '', stderr: '' })
  })

  it('--version is that of the package', async () => {
    const { version } = JSON.parse(read('package.json'))
    expect(await runCli('--version')).toEqual({ exitCode: 0, stdout: `${version}\n`, stderr: '' })
  })
})
