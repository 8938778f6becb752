#!/usr/bin/env node
// The command line: `multifd <command>`. It only picks a command and turns the end of it into an
// exit code: 0 for success, 1 for failure, 2 for wrong usage. What a command does is in its file.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, CommanderError } from 'commander'
import { packageRoot } from '../kit/native.ts'
import { bench } from './bench.ts'
import { type CommandDeclaration, EXIT_FAILED, EXIT_USAGE } from './command.ts'
import { decide } from './decide.ts'
import { doctor } from './doctor.ts'
import { receive } from './receive.ts'
import { relay } from './relay.ts'
import { send } from './send.ts'

const COMMANDS: readonly CommandDeclaration[] = [doctor, receive, send, relay, decide, bench]

outliveReaders()
process.exitCode = await main(process.argv.slice(2))

// Whoever reads along may leave (`| head`): a migration goes on, and its exit code tells how it
// ended. What could not be written for another reason (a full disk) is a failure in the end.
function outliveReaders(): void {
  let lost = false
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', ({ code }: NodeJS.ErrnoException) => {
      if (code !== 'EPIPE') lost = true
    })
  }
  process.once('exit', () => {
    if (lost) process.exitCode ||= EXIT_FAILED
  })
}

async function main(args: readonly string[]): Promise<number> {
  let exitCode = 0
  const program = declareProgram((code) => {
    exitCode = code
  })
  try {
    if (args.length === 0) throw new CommanderError(EXIT_USAGE, 'multifd', 'no command was named')
    await program.parseAsync(args, { from: 'user' })
    return exitCode
  } catch (error) {
    if (error instanceof CommanderError) return refuse(program, error, args)
    console.error(`multifd: ${error instanceof Error ? error.message : error}`)
    return EXIT_FAILED
  }
}

function declareProgram(ended: (exitCode: number) => void): Command {
  const program = new Command('multifd')
    .description('Moves a running virtual machine over parallel channels.')
    .usage('<command> [options]')
    .version(version(), '--version', 'print the version')
    .helpOption('--help', 'print this')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: () => {} }) // refuse() says it, with what is known
    .addHelpText('after', '\nExit codes: 0 fine, 1 failed, 2 wrong usage.')
  for (const { name, description, declare } of COMMANDS) {
    const command = program.command(name).description(description).allowExcessArguments(false)
    declare(command.helpOption('--help', 'print this'), ended)
  }
  return program
}

// Names what was refused, and what there is instead.
function refuse(program: Command, error: CommanderError, args: readonly string[]): number {
  if (error.exitCode === 0) return 0 // --help, --version
  const command = program.commands.find((known) => known.name() === args[0])
  const known =
    command === undefined
      ? `Commands: ${COMMANDS.map(({ name }) => name).join(', ')}. More: multifd --help`
      : `Options of ${command.name()}: ${command.options.map(({ long }) => long).join(', ')}`
  const sentence = error.message.replace(/^error: /, '').replaceAll('\n', ' ')
  console.error(`multifd: ${sentence}\n${known}`)
  return EXIT_USAGE
}

function version(): string {
  const text = readFileSync(join(packageRoot(), 'package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
