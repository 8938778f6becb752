// `multifd decide` and the program that waits for it, as an operator has them: two programs, and a
// word between them.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'
import { runCli } from './run-cli.ts'

const signals = fileURLToPath(new URL('../../src/migrate/operator-signals.ts', import.meta.url))
const ASKS = `
  const { decideBySignals } = await import(${JSON.stringify(signals)})
  const decide = (owner) => {
    if (process.argv.includes('fails')) throw new Error('the VMM could not resume')
    console.log('told ' + owner)
  }
  const decided = decideBySignals({ decide })
  console.log('asks')
  try {
    const owner = await decided
    const left = process.listenerCount('SIGTERM') + process.listenerCount('SIGUSR2')
    console.log('decided ' + owner + ', ' + left + ' listeners left')
  } catch (error) {
    console.log(error.message)
  }
`

/** A program that asks, or one that does not; ends with what it said. */
class Program implements AsyncDisposable {
  readonly #child
  readonly #ended: Promise<unknown>
  said = ''

  private constructor(code: string, args: readonly string[]) {
    const argv = [...TYPESCRIPT_ARGUMENTS, '--input-type=module', '-e', code, '--', ...args]
    this.#child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
    this.#child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.said += text
    })
    this.#ended = once(this.#child, 'close')
  }

  /** Resolves when it has said something. */
  static async start(code: string, ...args: string[]): Promise<Program> {
    const program = new Program(code, args)
    await once(program.#child.stdout, 'data')
    return program
  }

  get pid(): string {
    return String(this.#child.pid)
  }

  async end(): Promise<string[]> {
    await this.#ended
    return this.said.trimEnd().split('\n')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }
}

it.each(['source', 'destination'])('the word of an operator arrives: %s', async (owner) => {
  await using program = await Program.start(ASKS)
  expect(await runCli('decide', owner, program.pid)).toEqual({
    exitCode: 0,
    stdout: '',
    stderr: '',
  })
  expect(await program.end()).toEqual([
    'asks',
    `told ${owner}`,
    `decided ${owner}, 0 listeners left`,
  ])
})

it('a word that cannot be followed is an error of the program that asked', async () => {
  await using program = await Program.start(ASKS, 'fails')
  expect(await runCli('decide', 'source', program.pid)).toMatchObject({ exitCode: 0 })
  expect(await program.end()).toEqual(['asks', 'the VMM could not resume'])
})

it('no signal is sent to a program that does not listen for both', async () => {
  const code = `process.on('SIGTERM', () => {}); console.log('up'); setInterval(() => {}, 1e6)`
  await using program = await Program.start(code)
  for (const owner of ['source', 'destination']) {
    const { exitCode, stderr } = await runCli('decide', owner, program.pid)
    expect(exitCode).toBe(1)
    expect(stderr).toContain('does not listen for SIGUSR2, so it asks nobody who has the guest')
  }
  expect(program.said).toBe('up\n')
})

it('what is no program, and what is no owner, is refused', async () => {
  const gone = await Program.start(`console.log('up')`)
  await gone.end()
  const nobody = await runCli('decide', 'source', gone.pid)
  expect(nobody.exitCode).toBe(1)
  expect(nobody.stderr).toContain(`there is no program ${gone.pid} (ENOENT)`)
  const unknown = await runCli('decide', 'me', gone.pid)
  expect(unknown.exitCode).toBe(2)
  expect(unknown.stderr).toContain('Allowed choices are source, destination')
})
