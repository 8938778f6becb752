// Runs the command line from its sources, as tests of whole commands see it.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

export interface CliEnd {
  exitCode: number | null
  stdout: string
  stderr: string
}

/** What starts it, program first. */
export function cliCommand(...args: string[]): string[] {
  return [process.execPath, ...TYPESCRIPT_ARGUMENTS, main, ...args]
}

/** Runs a command to its end; `environment` is added to ours. */
export function run(argv: readonly string[], environment: NodeJS.ProcessEnv = {}): Promise<CliEnd> {
  const [file = '', ...args] = argv
  return new Promise((resolve) => {
    const options = { env: { ...process.env, ...environment }, timeout: 50_000 }
    const child = execFile(file, args, options, (_error, stdout, stderr) => {
      resolve({ exitCode: child.exitCode, stdout, stderr })
    })
  })
}

/** `multifd` with these arguments. */
export function runCli(...args: string[]): Promise<CliEnd> {
  return run(cliCommand(...args))
}
