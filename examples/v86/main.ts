// `npm start`: reads the options, turns Ctrl-C into a cancelled migration, prints what came of it,
// and chooses the exit code. What happens in between is in source.ts.
import { outcomeOfMigration } from '../../src/report/outcomes.ts'
import { RunningReport } from '../../src/report/running-report.ts'
import { createDisplay, hasColour } from './display.ts'
import { describeError } from './nodes.ts'
import { type Move, moveGuest } from './source.ts'
import { EXIT_BAD_OPTIONS, readStartOptions, type StartOptions } from './start-options.ts'
import { judge, passed, type Verdict, verdictText } from './verdict.ts'

const EXIT_FAILED = 1
/** 128 + the signal's number, as shells have it. */
const EXIT_CANCELLED = { SIGINT: 130, SIGTERM: 143 } as const

async function run(options: StartOptions): Promise<number> {
  let opened: RunningReport | undefined
  try {
    opened = await openReport(options)
  } catch (thrown) {
    return refuse(describeError(thrown).reason)
  }
  await using report = opened
  const cancel = new AbortController()
  let exitCancelled: number | undefined
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      // Whoever asks twice waits for nothing; the destination notices that this process is gone.
      if (exitCancelled !== undefined) process.exit(exitCancelled)
      exitCancelled = EXIT_CANCELLED[name]
      cancel.abort()
    })
  }
  // stdout belongs to the JSON object then.
  const shown = options.json ? process.stderr : process.stdout
  const display = createDisplay(shown)
  try {
    const move = await moveGuest(options, {
      signal: cancel.signal,
      display,
      recorder: report?.recorder,
    })
    display.end()
    const verdict = judge(move)
    await report?.completed(...reported(move, verdict))
    if (options.json) printJson(verdict)
    else process.stdout.write(`\n${verdictText(verdict, hasColour(process.stdout))}\n`)
    return passed(verdict) ? 0 : EXIT_FAILED
  } catch (thrown) {
    display.end()
    const { code, reason } = describeError(thrown)
    const status = exitCancelled === undefined ? 'failed' : 'cancelled'
    await report?.failed(thrown, status)
    process.stderr.write(`${status === 'failed' ? 'Failed' : 'Cancelled'} (${code}): ${reason}.\n`)
    if (options.json) printJson({ status, error: { code, message: reason } })
    return exitCancelled ?? EXIT_FAILED
  }
}

function openReport(options: StartOptions): Promise<RunningReport | undefined> {
  const { memoryMib, workingSetMib, rate, channels } = options
  const speed = rate === 0 ? 'flat out' : `at ${rate} pages/s`
  const subject = {
    title: `Migration of a running guest with ${memoryMib} MiB`,
    lead: `In v86, rewriting ${workingSetMib} MiB ${speed}, over ${channels} channels.`,
    over: 'loopback',
  }
  return RunningReport.open(options.report, subject, (sentence) => {
    process.stderr.write(`Warning: ${sentence}\n`)
  })
}

/** The library's figures, but for those that the example measures itself, without its hashing. */
function reported({ result, arrived }: Move, verdict: Verdict) {
  const outcome = {
    ...outcomeOfMigration(result, arrived.channelCpuSeconds),
    totalTimeMs: verdict.totalTimeMs,
    downtimeMs: verdict.downtimeMs,
    throughputBytesPerSecond: verdict.throughputBytesPerSecond,
  }
  const facts = {
    ...outcome.facts,
    'hashing at both sides, not counted, ms': Math.round(verdict.verifyMs),
    'RAM identical': verdict.ramIdentical ? 'yes' : 'NO',
  }
  return [{ ...outcome, facts }, result] as const
}

function printJson(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

/** Bad options: a sentence, and for programs the object that they wait for. */
function refuse(problem: string, { said = false } = {}): number {
  if (!said) process.stderr.write(`error: ${problem}\n`)
  if (args.includes('--json')) {
    printJson({ status: 'failed', error: { code: 'ERR_EXAMPLE_OPTIONS', message: problem } })
  }
  return EXIT_BAD_OPTIONS
}

const args = process.argv.slice(2)
const read = readStartOptions(args)
if (read.ok) process.exitCode = await run(read.options)
else if (read.problem === undefined) process.exitCode = read.exitCode
else process.exitCode = refuse(read.problem, { said: true })
