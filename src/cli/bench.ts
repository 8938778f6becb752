// `multifd bench`: what a migration between two hosts would reach, as iperf3 says it of plain TCP.
// It shows how far it is and prints what was found; who measures is in bench/.

import { CommanderError } from 'commander'
import { orWrongUsage, wholeNumberOf } from './arguments.ts'
import { measure } from './bench/client.ts'
import { channelsText, resultText, speedText, trialText } from './bench/figures.ts'
import { serve } from './bench/server.ts'
import { benchUri, DEFAULT_PORT } from './bench/terms.ts'
import { type CommandDeclaration, EXIT_FAILED, EXIT_USAGE } from './command.ts'
import { listenForInterrupts } from './interrupts.ts'
import { StatusLine } from './status-line.ts'

const SECONDS_MAX = 600
const SECONDS_DEFAULT = 10
const MEBIBYTES_MAX = 4096

const EXPLANATION = `
At one host:  multifd bench --server --allow-plaintext
At the other: multifd bench HOST --allow-plaintext

The client makes up a guest of incompressible memory and migrates it to the server, into memory that
is fresh and thrown away, again and again: with 1, 2, 4 and 8 channels for a moment each, then with
the best number for longer; engine and zero-copy find themselves. HOST is a name, an address, HOST:PORT or
tcp:HOST:PORT. The server listens on port ${DEFAULT_PORT} and takes migrations on the port behind it; without
--allow-plaintext on this machine only. It serves one client at a time until Ctrl-C.

Exit codes: 0 measured, 1 failed, 2 wrong usage, 130 interrupted.`

interface Flags {
  server?: true
  time: number
  memory?: number
  allowPlaintext?: true
  json?: true
}

export const bench: CommandDeclaration = {
  name: 'bench',
  description: 'Measures what a migration to another host would reach.',
  declare(command, ended) {
    command
      .argument('[host]', 'where a server is; with --server, where to listen')
      .option('--server', 'be the other end, until Ctrl-C')
      .option('--time <seconds>', 'to measure for', wholeNumberOf(1, SECONDS_MAX), SECONDS_DEFAULT)
      .option(
        '--memory <MiB>',
        'of the made-up guest; 1024, or a quarter of what is free',
        wholeNumberOf(1, MEBIBYTES_MAX),
      )
      .option('--allow-plaintext', 'go beyond this machine, on a network you trust')
      .option('--json', 'print one JSON object at the end, on stdout')
      .addHelpText('after', EXPLANATION)
      .action(async (host: string | undefined, flags: Flags) => {
        using interrupts = listenForInterrupts()
        try {
          await orWrongUsage(run(host, flags, interrupts.signal))
          if (interrupts.exitCode !== undefined) ended(interrupts.exitCode)
        } catch (error) {
          if (error instanceof CommanderError) throw error
          const { code = null, message } = error as { code?: string; message: string }
          if (flags.json) console.log(JSON.stringify({ status: 'failed', code, message }))
          console.error(`multifd: ${message}`)
          ended(interrupts.exitCode ?? EXIT_FAILED)
        }
      })
  },
}

async function run(host: string | undefined, flags: Flags, signal: AbortSignal): Promise<void> {
  const allowPlaintext = flags.allowPlaintext === true
  if (flags.server) {
    const where = host ?? (allowPlaintext ? '0.0.0.0' : '127.0.0.1')
    const say = (line: string) => console.error(line)
    return serve(benchUri(where), { allowPlaintext, signal, say })
  }
  if (host === undefined) {
    throw new CommanderError(
      EXIT_USAGE,
      'multifd',
      'name the host where "multifd bench --server" runs, or be it with --server',
    )
  }
  const line = new StatusLine()
  try {
    const result = await measure(benchUri(host), {
      seconds: flags.time,
      guestBytes: flags.memory === undefined ? undefined : flags.memory * 2 ** 20,
      allowPlaintext,
      signal,
      progress: (doing, channels, speed) =>
        line.show(`${doing} ${channelsText(channels)}: ${speedText(speed)}`),
      tried: (trial) => {
        line.clear()
        console.error(trialText(trial))
      },
    })
    line.clear()
    console.log(flags.json ? JSON.stringify(result) : resultText(result))
  } finally {
    line.clear()
  }
}
