// `multifd decide`: the operator's word to a program in which nobody knows who has the guest. It
// sends a signal, and only to a program that listens for one.

import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { Argument } from 'commander'
import { OWNER_SIGNALS } from '../migrate/operator-signals.ts'
import type { Owner } from '../migrate/ownership.ts'
import { wholeNumberOf } from './arguments.ts'
import { type CommandDeclaration, EXIT_FAILED } from './command.ts'

/** The kernel's own bound, PID_MAX_LIMIT. */
const PID_MAX = 2 ** 22

const EXPLANATION = `
For a migration or a relay in status unknown: it was handed over, or is all there, and the other side
did not say whose the guest is. First see to it that the guest can never run on the one side (end that
program, or decide there), then let it run on the other.

  multifd decide destination <pid>   it runs at the destination, or is to: sends SIGUSR2
  multifd decide source <pid>        it runs at the source, or is to: sends SIGTERM

A relay that is not in doubt takes SIGTERM as its end: the guest runs on at the source then, too.

Exit codes: 0 the word was sent, 1 no such program, or one that does not listen, 2 wrong usage.`

export const decide: CommandDeclaration = {
  name: 'decide',
  description: 'Tells a program in status unknown who has the guest.',
  declare(command, ended) {
    command
      .addArgument(new Argument('<owner>').choices(Object.keys(OWNER_SIGNALS)))
      .argument('<pid>', 'the program that asks', wholeNumberOf(1, PID_MAX))
      .addHelpText('after', EXPLANATION)
      .action((owner: Owner, pid: number) => {
        const problem = tell(owner, pid)
        if (problem === undefined) return
        console.error(`multifd: ${problem}`)
        ended(EXIT_FAILED)
      })
  },
}

/** What kept the word from being sent; undefined if nothing did. */
function tell(owner: Owner, pid: number): string | undefined {
  try {
    const caught = caughtSignals(pid)
    const deaf = Object.values(OWNER_SIGNALS).find(
      (signal) => !caught.has(constants.signals[signal]),
    )
    if (deaf !== undefined) {
      return `program ${pid} does not listen for ${deaf}, so it asks nobody who has the guest`
    }
    process.kill(pid, OWNER_SIGNALS[owner])
    return undefined
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EPERM') return `program ${pid} is another user's: decide as that user`
    return `there is no program ${pid} (${code})`
  }
}

/** Numbers of the signals that a program has handlers for. */
function caughtSignals(pid: number): Set<number> {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const mask = BigInt(`0x${/^SigCgt:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`)
  const numbers = Array.from({ length: 64 }, (_, index) => index + 1)
  return new Set(numbers.filter((number) => (mask >> BigInt(number - 1)) & 1n))
}
