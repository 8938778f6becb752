// Ctrl-C and SIGTERM for commands that run for a while: the first asks the work to end in good
// order, the second ends the program at once, as if nobody listened.

/** As shells count: 128 and the signal's number. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const

type Interrupt = keyof typeof EXIT_CODES

export interface Interrupts extends Disposable {
  /** Fires with the first signal. */
  readonly signal: AbortSignal
  /** What to exit with because of it; undefined if none came. */
  readonly exitCode: number | undefined
}

/** Listens until it is disposed of. */
export function listenForInterrupts(): Interrupts {
  const abort = new AbortController()
  let exitCode: number | undefined
  const names = Object.keys(EXIT_CODES) as Interrupt[]
  const stop = (): void => {
    for (const name of names) process.removeListener(name, interrupted)
  }
  const interrupted = (name: NodeJS.Signals): void => {
    stop()
    exitCode = EXIT_CODES[name as Interrupt]
    abort.abort(new Error(`interrupted by ${name}`))
  }
  for (const name of names) process.on(name, interrupted)
  return {
    signal: abort.signal,
    get exitCode() {
      return exitCode
    },
    [Symbol.dispose]: stop,
  }
}
