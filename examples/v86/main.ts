// `npm start`: reads the options, turns Ctrl-C into a cancelled migration, prints what came of it,
// and chooses the exit code. What happens in between is in source.ts.
import { createDisplay, hasColour } from './display.ts'
import { describeError } from './nodes.ts'
import { moveGuest } from './source.ts'
import { readStartOptions, type StartOptions } from './start-options.ts'
import { judge, passed, verdictText } from './verdict.ts'

const EXIT_FAILED = 1
/** 128 + the signal's number, as shells have it. */
const EXIT_CANCELLED = { SIGINT: 130, SIGTERM: 143 } as const

async function run(options: StartOptions): Promise<number> {
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
    const move = await moveGuest(options, { signal: cancel.signal, display })
    display.end()
    const verdict = judge(move)
    if (options.json) printJson(verdict)
    else process.stdout.write(`\n${verdictText(verdict, hasColour(process.stdout))}\n`)
    return passed(verdict) ? 0 : EXIT_FAILED
  } catch (thrown) {
    display.end()
    const { code, reason } = describeError(thrown)
    const status = exitCancelled === undefined ? 'failed' : 'cancelled'
    process.stderr.write(`${status === 'failed' ? 'Failed' : 'Cancelled'} (${code}): ${reason}.\n`)
    if (options.json) printJson({ status, error: { code, message: reason } })
    return exitCancelled ?? EXIT_FAILED
  }
}

function printJson(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

const args = process.argv.slice(2)
const read = readStartOptions(args)
if (read.ok) {
  process.exitCode = await run(read.options)
} else {
  const { exitCode, problem } = read
  if (problem !== undefined && args.includes('--json')) {
    printJson({ status: 'failed', error: { code: 'ERR_EXAMPLE_OPTIONS', message: problem } })
  }
  process.exitCode = exitCode
}
