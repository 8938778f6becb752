// The command line of the benchmarks: `npm run bench -- <comparison> [options]`; without a name it
// lists them. Progress goes to stderr, the report to stdout; with --json its last line is one
// object. It only picks comparisons and prints: what is measured, and how, is in comparisons/.
import { Command, CommanderError } from 'commander'
import type { benchReport } from '../src/report/bench-report.ts'
import { readEnvironment } from '../src/report/environment.ts'
import { ReportFile } from '../src/report/report-file.ts'
import { COMPARISONS, listing } from './all-comparisons.ts'
import type { Comparison } from './comparison.ts'
import { jsonLine, textReport } from './report.ts'

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
  const [name] = args
  if (name === undefined) {
    console.log(listing())
    return 0
  }
  let exitCode = 0
  const program = declareProgram((code) => {
    exitCode = code
  })
  try {
    if (!name.startsWith('-') && !program.commands.some((known) => known.name() === name)) {
      throw new CommanderError(EXIT_USAGE, 'bench.comparison', `unknown comparison '${name}'`)
    }
    await program.parseAsync(args, { from: 'user' })
    return exitCode
  } catch (error) {
    if (interrupted.signal.aborted) return EXIT_INTERRUPTED
    if (error instanceof CommanderError)
      return error.exitCode === 0 ? 0 : refuse(program, error, args)
    console.error(sentenceOf(error))
    return error instanceof RangeError ? EXIT_USAGE : EXIT_FAILED
  }
}

function sentenceOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : ''
  return `bench: ${error instanceof Error ? error.message : error}\n${cause}`.trim()
}

function declareProgram(ended: (exitCode: number) => void): Command {
  const program = new Command('bench')
    .description('Measures the library against other ways, in alternating turns.')
    .usage('<comparison> [options]')
    .addHelpText('after', `\n${listing()}`)
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: () => {} }) // refuse() says it, with what is known
  for (const comparison of COMPARISONS) {
    const command = program
      .command(comparison.name)
      .description(comparison.question)
      .option('--json', 'print one JSON object on the last line')
      .option('--report <file>', 'write an HTML page with plots to this file')
    comparison
      .declare(command)
      .allowExcessArguments(false)
      .action((options: OutputOptions) => measure(comparison, options))
  }
  program
    .command('all')
    .description('all of them, one after the other')
    .option('--json', 'print one JSON object per comparison, behind its report')
    .option('--smoke', 'only to see that they work')
    .allowExcessArguments(false)
    .action(async (flags: object) => ended(await measureAll(program, flags)))
  return program
}

/** Each with its own defaults; one that fails does not keep the others from being run. */
async function measureAll(program: Command, flags: object): Promise<number> {
  let exitCode = 0
  for (const comparison of COMPARISONS) {
    const command = program.commands.find((known) => known.name() === comparison.name)
    try {
      await measure(comparison, { ...command?.opts(), ...flags })
    } catch (error) {
      interrupted.signal.throwIfAborted()
      console.error(`${comparison.name} failed\n${sentenceOf(error)}`)
      exitCode = EXIT_FAILED
    }
  }
  return exitCode
}

interface OutputOptions {
  readonly json?: boolean
  readonly report?: string
}

async function measure(comparison: Comparison<never>, options: OutputOptions): Promise<void> {
  // Hours later would be late to hear that it cannot be written.
  await using file =
    options.report === undefined ? undefined : await ReportFile.open(options.report)
  const before = readEnvironment('loopback')
  const findings = await comparison.run({
    options: options as never, // commander made it from the comparison's own declarations
    signal: interrupted.signal,
    progress: (line) => console.error(`${comparison.name}: ${line}`),
  })
  const { interface: over = before.interface, qemu: peer } = findings
  const environment = { ...before, interface: over, ...(peer === undefined ? {} : { qemu: peer }) }
  console.log(textReport(comparison.name, comparison.question, environment, findings))
  const { results, ratios, skipped = [] } = findings
  const report = { comparison: comparison.name, environment, results, ratios, skipped }
  if (options.json) console.log(jsonLine(report))
  if (file !== undefined) {
    const { tables, notes } = findings
    const render = await loadReport()
    await file.write(render({ ...report, question: comparison.question, tables, notes }))
  }
}

/**
 * Drawing takes a fifth of a second to load: only who wants a report pays. A function of its own,
 * as tsc does not rewrite the path of an import beside `await using`.
 */
async function loadReport(): Promise<typeof benchReport> {
  return (await import('../src/report/bench-report.ts')).benchReport
}

// Names what was refused, and what there is instead.
function refuse(program: Command, error: CommanderError, args: readonly string[]): number {
  const command = program.commands.find((known) => args.includes(known.name()))
  const known =
    command === undefined
      ? `Comparisons: ${COMPARISONS.map(({ name }) => name).join(', ')}, all`
      : `Options of ${command.name()}: ${command.options.map(({ long }) => long).join(', ')}`
  console.error(`bench: ${error.message.replace(/^error: /, '')}\n${known}`)
  return EXIT_USAGE
}
