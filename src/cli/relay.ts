// `multifd relay`: stands between two QEMUs. It says what to type at either of them, shows how far
// the guest is, and, should nobody know who has the guest, leaves that to the operator and to
// signals.

import { Option } from 'commander'
import { formatBytes } from '../kit/format.ts'
import { CHANNELS_MAX } from '../kit/limits.ts'
import { COMPRESSIONS } from '../kit/native.ts'
import type { RelayProgress } from '../relay/progress.ts'
import { destinationCommands } from '../relay/qemu-setup.ts'
import { type Relay, relay as startRelay } from '../relay/relay.ts'
import {
  checkRelayOptions,
  type RelayCompression,
  type RelayOptions,
  sidesOf,
} from '../relay/relay-options.ts'
import { outcomeOfRelay } from '../report/outcomes.ts'
import { RunningReport } from '../report/running-report.ts'
import { type QemuCommand, sourceCommands } from '../snapshot/qemu-commands.ts'
import { orWrongUsage, wholeNumberOf } from './arguments.ts'
import { type CommandDeclaration, EXIT_FAILED, REPORT_DESCRIPTION, warn } from './command.ts'
import { formatSeconds, StatusLine } from './status-line.ts'

const SECONDS_MAX = 24 * 3600
const LEVEL_MAX = 20
/** What a shell reports of a program that SIGINT or SIGTERM ended: 128 and the signal's number. */
const EXIT_BY_SIGNAL = { SIGINT: 130, SIGTERM: 143 }

interface Flags {
  channels?: number
  toChannels?: number
  compression?: RelayCompression
  toCompression?: RelayCompression
  toLevel?: number
  peerTimeout?: number
  allowPlaintext?: true
  report?: string
  json?: true
}

const EXPLANATION = `
Both QEMUs need the same machine type, devices and RAM. The commands for both monitors are printed
on stderr. The source needs the capability return-path; post-copy is refused.

Ctrl-C ends the relay: the guest runs on at the source, the destination fails. Once the destination
has everything, nothing but its answer decides. If that does not come, the source is held, so that
never two guests run. Look at the destination then:
  it runs the guest:                kill -USR2 <pid>   the source ends its guest, exit code 0
  it does not, and never will:      kill -TERM <pid>   the source's guest resumes, exit code 1

Exit codes: 0 the destination has the guest, 1 failed, 2 wrong usage, 130 and 143 ended by Ctrl-C and
SIGTERM; after all but 0 the guest runs on at the source.`

export const relay: CommandDeclaration = {
  name: 'relay',
  description: 'Passes a guest on from a QEMU to another one, as it comes.',
  declare(command, ended) {
    const channels = wholeNumberOf(0, CHANNELS_MAX)
    command
      .argument('<listen-uri>', 'where the source migrates to: tcp:HOST:PORT or unix:PATH')
      .argument('<connect-uri>', 'where the destination listens')
      .option('--channels <n>', "the source's multifd-channels; 0: its multifd is off", channels, 2)
      .option('--to-channels <n>', "the destination's; as the source's unless given", channels)
      .addOption(methodOption('--compression <method>', "the source's multifd-compression; none"))
      .addOption(methodOption('--to-compression <method>', "the destination's; as the source's"))
      .option(
        '--to-level <n>',
        'how hard to compress, as QEMU counts: zlib 0 to 9, zstd 0 to 20; 1',
        wholeNumberOf(0, LEVEL_MAX),
      )
      .option('--allow-plaintext', 'go beyond this machine, on a network you trust')
      .option(
        '--peer-timeout <seconds>',
        'a side silent for so long has failed; 10',
        wholeNumberOf(1, SECONDS_MAX),
      )
      .option('--report <file>', REPORT_DESCRIPTION)
      .option('--json', 'print one JSON object at the end, on stdout')
      .addHelpText('after', EXPLANATION)
      .action(async (listenUri: string, connectUri: string, flags: Flags) => {
        const operator = new AbortController()
        const options = toOptions(flags, operator.signal)
        await using page = await orWrongUsage(openReport(listenUri, connectUri, flags))
        const begin = async (): Promise<Relay> => startRelay(listenUri, connectUri, options)
        const passing = await orWrongUsage(begin())
        const signals = new OperatorSignals(passing, operator)
        try {
          sayWhatToType(await passing.listening, connectUri, options)
          await show(passing, page)
          const result = await passing.result
          await page?.completed(outcomeOfRelay(result))
          say(`the destination has the guest: ${summary(result)}`)
          if (!result.sourceTold) say('the source is gone: look that it does not run the guest')
          if (flags.json) console.log(JSON.stringify(result))
        } catch (error) {
          await page?.failed(error, statusOf(passing.status))
          const { code = null, message } = error as { code?: string; message: string }
          say(`multifd: ${message}`)
          if (flags.json) console.log(JSON.stringify({ status: passing.status, code, message }))
          ended(code === 'ERR_MULTIFD_ABORTED' ? signals.exitCode : EXIT_FAILED)
        } finally {
          signals.forget()
        }
      })
  },
}

function openReport(listenUri: string, connectUri: string, { report }: Flags) {
  const over = `${listenUri}, ${connectUri}`
  const lead = `From ${listenUri} to ${connectUri}.`
  return RunningReport.open(report, { title: 'A relayed migration', lead, over }, warn)
}

function statusOf(status: string): 'failed' | 'cancelled' | 'unknown' {
  return status === 'cancelled' || status === 'unknown' ? status : 'failed'
}

function methodOption(flags: string, description: string): Option {
  return new Option(flags, description).choices(COMPRESSIONS)
}

function toOptions(flags: Flags, signal: AbortSignal): RelayOptions {
  return {
    signal,
    ...(flags.channels === undefined ? {} : { multifdChannels: flags.channels }),
    ...(flags.toChannels === undefined ? {} : { toMultifdChannels: flags.toChannels }),
    ...(flags.compression === undefined ? {} : { compression: flags.compression }),
    ...(flags.toCompression === undefined ? {} : { toCompression: flags.toCompression }),
    ...(flags.toLevel === undefined ? {} : { toCompressionLevel: flags.toLevel }),
    ...(flags.peerTimeout === undefined ? {} : { peerTimeoutMs: flags.peerTimeout * 1000 }),
    allowPlaintext: flags.allowPlaintext === true,
  }
}

/** On stderr: stdout is for the JSON object. */
function sayWhatToType(listening: string, connectUri: string, options: RelayOptions): void {
  const { source, destination } = sidesOf(checkRelayOptions(options))
  say(`Relaying from ${listening} to ${connectUri}.`)
  sayCommands(
    'At the destination, started with -incoming defer, in its monitor (HMP):',
    destinationCommands(destination, connectUri),
  )
  sayCommands('Then at the source (HMP):', sourceCommands({ ...source, uri: listening }))
}

function sayCommands(heading: string, commands: readonly QemuCommand[]): void {
  const [hmp, qmp] = [commands.map((one) => `  ${one.hmp}`), commands.map((one) => `  ${one.qmp}`)]
  say([heading, ...hmp, 'or by QMP:', ...qmp].join('\n'))
}

/** A line per status, and on a terminal one that shows how far it is. */
async function show(passing: Relay, page: RunningReport | undefined): Promise<void> {
  const line = new StatusLine()
  let status = ''
  try {
    for await (const progress of passing) {
      page?.recorder.relaying(progress)
      if (progress.status !== status) {
        line.clear()
        sayStatus(progress)
      }
      status = progress.status
      line.show(`${status}: ${summary(progress)}, ${formatSeconds(progress.elapsedMs)}`)
    }
  } finally {
    line.clear()
  }
}

function sayStatus({ status, reason }: RelayProgress): void {
  if (status === 'unknown') {
    say(`unknown: ${reason}.`)
    say(`  the guest runs at the destination:              kill -USR2 ${process.pid}`)
    say(`  it does not, and the source is to resume it:    kill -TERM ${process.pid}`)
  } else {
    say(status === 'device' ? 'the destination is sent the devices, and has to answer' : status)
  }
}

function summary(counts: { receivedBytes: number; sentBytes: number; syncs: number }): string {
  const { receivedBytes, sentBytes, syncs } = counts
  return `${formatBytes(receivedBytes)} in, ${formatBytes(sentBytes)} out, ${syncs} sync points`
}

function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** What the operator says by signals. */
class OperatorSignals {
  readonly #passing: Relay
  readonly #operator: AbortController
  #exitCode = EXIT_FAILED
  readonly #handlers = {
    SIGINT: () => this.#interrupt('SIGINT'),
    SIGTERM: () => this.#terminate(),
    SIGUSR2: () => this.#decideForDestination(),
    // A terminal that closes ends nothing: without the relay a held source would resume its guest.
    SIGHUP: () => {},
  }

  constructor(passing: Relay, operator: AbortController) {
    this.#passing = passing
    this.#operator = operator
    for (const [signal, handler] of Object.entries(this.#handlers)) process.on(signal, handler)
  }

  /** Of a relay that was ended by a signal. */
  get exitCode(): number {
    return this.#exitCode
  }

  forget(): void {
    for (const [signal, handler] of Object.entries(this.#handlers)) process.off(signal, handler)
  }

  #interrupt(signal: 'SIGINT' | 'SIGTERM'): void {
    if (this.#passing.status === 'unknown') {
      say(`nobody knows who has the guest: kill -USR2 or -TERM ${process.pid}, see above`)
      return
    }
    this.#exitCode = EXIT_BY_SIGNAL[signal]
    this.#operator.abort()
  }

  #terminate(): void {
    if (this.#passing.status === 'unknown') this.#passing.decide('source')
    else this.#interrupt('SIGTERM')
  }

  #decideForDestination(): void {
    if (this.#passing.status === 'unknown') this.#passing.decide('destination')
    else say(`SIGUSR2 means nothing now: the status is ${this.#passing.status}`)
  }
}
