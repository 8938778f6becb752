// The command line of the benchmarks: `npm run bench -- <comparison> [options]`. Progress goes to
// stderr, the report to stdout; with --json its last line is one object. It only picks a comparison
// and prints: what is measured, and how, is in comparisons/.
import { Command, CommanderError } from 'commander'
import { readEnvironment } from '../src/report/environment.ts'
import type { Comparison } from './comparison.ts'
import { ceiling } from './comparisons/ceiling.ts'
import { engines } from './comparisons/engines.ts'
import { flush } from './comparisons/flush.ts'
import { headers } from './comparisons/headers.ts'
import { qemu } from './comparisons/qemu.ts'
import { sparse } from './comparisons/sparse.ts'
import { zerocopy } from './comparisons/zerocopy.ts'
import { jsonLine, textReport } from './report.ts'

const COMPARISONS: readonly Comparison<never>[] = [
  ceiling,
  sparse,
  zerocopy,
  engines,
  flush,
  headers,
  qemu,
]
const EXIT_FAILED = 1
const EXIT_USAGE = 2
const EXIT_INTERRUPTED = 130

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  // Kept for good: the rig leaves an interruption to us as long as we listen (namespaces.ts).
  process.on(signal, () => interrupted.abort(new Error(`ended by ${signal}`)))
}

process.exitCode = await main(process.argv.slice(2))

async function main(args: readonly string[]): Promise<number> {
  const program = declareProgram()
  try {
    const [name = ''] = args
    if (!name.startsWith('-') && !COMPARISONS.some((known) => known.name === name)) {
      const what = name === '' ? 'no comparison was named' : `unknown comparison '${name}'`
      throw new CommanderError(EXIT_USAGE, 'bench.comparison', what)
    }
    await program.parseAsync(args, { from: 'user' })
    return 0
  } catch (error) {
    if (interrupted.signal.aborted) return EXIT_INTERRUPTED
    if (error instanceof CommanderError)
      return error.exitCode === 0 ? 0 : refuse(program, error, args)
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : ''
    console.error(`bench: ${error instanceof Error ? error.message : error}\n${cause}`.trim())
    return error instanceof RangeError ? EXIT_USAGE : EXIT_FAILED
  }
}

function declareProgram(): Command {
  const program = new Command('bench')
    .description('Measures the library against other ways, in alternating turns.')
    .usage('<comparison> [options]')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: () => {} }) // refuse() says it, with what is known
  for (const comparison of COMPARISONS) {
    const command = program
      .command(comparison.name)
      .description(comparison.question)
      .option('--json', 'print one JSON object on the last line')
    comparison
      .declare(command)
      .allowExcessArguments(false)
      .action((options: { json?: boolean }) => measure(comparison, options))
  }
  return program
}

async function measure(comparison: Comparison<never>, options: { json?: boolean }): Promise<void> {
  const before = readEnvironment('loopback')
  const findings = await comparison.run({
    options: options as never, // commander made it from the comparison's own declarations
    signal: interrupted.signal,
    progress: (line) => console.error(`${comparison.name}: ${line}`),
  })
  const { interface: over = before.interface, qemu: peer } = findings
  const environment = { ...before, interface: over, ...(peer === undefined ? {} : { qemu: peer }) }
  console.log(textReport(comparison.name, comparison.question, environment, findings))
  if (options.json) {
    const { results, ratios, skipped = [] } = findings
    console.log(jsonLine({ comparison: comparison.name, environment, results, ratios, skipped }))
  }
}

// Names what was refused, and what there is instead.
function refuse(program: Command, error: CommanderError, args: readonly string[]): number {
  const command = program.commands.find((known) => args.includes(known.name()))
  const known =
    command === undefined
      ? `Comparisons: ${COMPARISONS.map(({ name }) => name).join(', ')}`
      : `Options of ${command.name()}: ${command.options.map(({ long }) => long).join(', ')}`
  console.error(`bench: ${error.message.replace(/^error: /, '')}\n${known}`)
  return EXIT_USAGE
}
