// `multifd send`: a stored guest goes on in the QEMUs that wait for it. It says what those QEMUs
// need, shows how far each is, and leaves the work to sendSnapshot.

import { Option } from 'commander'
import { formatBytes } from '../kit/format.ts'
import { CHANNELS_MAX } from '../kit/limits.ts'
import { COMPRESSIONS } from '../kit/native.ts'
import { outcomeOfSending } from '../report/outcomes.ts'
import { RunningReport } from '../report/running-report.ts'
import { ENGINES, ZERO_COPY } from '../schedule/engine-choice.ts'
import { isHashed } from '../snapshot/manifest.ts'
import { destinationRecipe } from '../snapshot/qemu-advice.ts'
import { CHANNELS_DEFAULT } from '../snapshot/receive-options.ts'
import { DIALECTS, type SendSnapshotOptions } from '../snapshot/send-options.ts'
import type { SendOutcome, SendProgress } from '../snapshot/send-progress.ts'
import { type SnapshotSending, sendSnapshot } from '../snapshot/send-snapshot.ts'
import { readManifest } from '../snapshot/snapshot-directory.ts'
import { orWrongUsage, wholeNumberOf } from './arguments.ts'
import { type CommandDeclaration, EXIT_FAILED, REPORT_DESCRIPTION, warn } from './command.ts'
import { listenForInterrupts } from './interrupts.ts'
import { formatSeconds, StatusLine } from './status-line.ts'

const SECONDS_MAX = 24 * 3600
const BANDWIDTH_MAX = Number.MAX_SAFE_INTEGER

const EXPLANATION = `
A URI is tcp:HOST:PORT, tcp:[IPv6]:PORT or unix:PATH; several are clones of one guest, and one that
fails stops none of the others. Each QEMU waits for a migration (-incoming defer), with the machine
type, memory and devices of the stored guest; what to type there is printed first. Nothing is sent
before every file of the snapshot was compared with its manifest, and the snapshot is only read.
Ctrl-C gives up the destinations that are not done. Where a guest may run although its destination
failed, which is so only once everything was sent, the error says so.

Exit codes: 0 all have it, 1 one failed or nothing was sent, 2 wrong usage, 130 interrupted.`

const NOT_HASHED =
  'the snapshot has no hashes of its RAM, so sizes are compared, and no contents: its receiver ended ' +
  'early, perhaps before its source was told. Look that the guest does not run on at the source'

interface Flags {
  channels: number
  paused?: true
  compression: NonNullable<SendSnapshotOptions['compression']>
  level?: number
  dialect?: NonNullable<SendSnapshotOptions['dialect']>
  maxBandwidth?: number
  engine: NonNullable<SendSnapshotOptions['engine']>
  zeroCopy: NonNullable<SendSnapshotOptions['zeroCopy']>
  uuid?: string
  peerTimeout?: number
  allowPlaintext?: true
  report?: string
  json?: true
}

export const send: CommandDeclaration = {
  name: 'send',
  description: 'Sends a stored guest to one or more QEMUs, where it goes on.',
  declare(command, ended) {
    command
      .argument('<dir>', 'the snapshot, as `multifd receive` stored it')
      .argument('<uri...>', 'where the QEMUs wait')
      .option(
        '--channels <n>',
        `multifd-channels of the QEMUs, 0 to ${CHANNELS_MAX}; 0: their multifd is off`,
        wholeNumberOf(0, CHANNELS_MAX),
        CHANNELS_DEFAULT,
      )
      .option('--paused', 'the guest stays stopped where it was stored, until "cont"')
      .addOption(
        new Option('--compression <method>', 'multifd-compression of the QEMUs')
          .choices(COMPRESSIONS)
          .default('none'),
      )
      .option('--level <n>', 'of the compression: zlib 0 to 9, zstd 0 to 20', wholeNumberOf(0, 20))
      .addOption(
        new Option(
          '--dialect <name>',
          'where sync points are, if the machine type says nothing',
        ).choices(DIALECTS),
      )
      .option(
        '--max-bandwidth <bytes>',
        'per second and destination; default no limit',
        wholeNumberOf(0, BANDWIDTH_MAX),
      )
      .addOption(
        new Option('--engine <name>', 'how bytes are sent').choices(ENGINES).default('auto'),
      )
      .addOption(
        new Option('--zero-copy <mode>', 'send pages from where they lie')
          .choices(ZERO_COPY)
          .default('auto'),
      )
      .option('--uuid <uuid>', "the QEMUs' -uuid, if it is not the snapshot's")
      .option(
        '--peer-timeout <seconds>',
        'a QEMU silent for so long has failed; 10',
        wholeNumberOf(1, SECONDS_MAX),
      )
      .option('--allow-plaintext', 'send beyond this machine, on a network you trust')
      .option('--report <file>', REPORT_DESCRIPTION)
      .option('--json', 'print one JSON object at the end, on stdout')
      .addHelpText('after', EXPLANATION)
      .action(async (directory: string, uris: string[], flags: Flags) => {
        using interrupts = listenForInterrupts()
        const options = toOptions(flags, interrupts.signal)
        await using page = await orWrongUsage(openReport(directory, uris, flags))
        const sending = await orWrongUsage((async () => sendSnapshot(directory, uris, options))())
        try {
          await sayWhatIsNeeded(directory, flags)
          await showProgress(sending, page)
          const outcomes = await sending.result
          await page?.completed(outcomeOfSending(outcomes))
          report(outcomes, flags)
          const failed = outcomes.some(({ status }) => status !== 'completed')
          if (failed) ended(interrupts.exitCode ?? EXIT_FAILED)
        } catch (error) {
          await page?.failed(error, interrupts.signal.aborted ? 'cancelled' : 'failed')
          if (flags.json) printJson({ status: 'failed', ...asFields(error) })
          console.error(`multifd: ${error instanceof Error ? error.message : error}`)
          ended(interrupts.exitCode ?? EXIT_FAILED)
        }
      })
  },
}

function toOptions(flags: Flags, signal: AbortSignal): SendSnapshotOptions {
  const { level, dialect, maxBandwidth, uuid, peerTimeout } = flags
  return {
    multifdChannels: flags.channels,
    paused: flags.paused === true,
    compression: flags.compression,
    engine: flags.engine,
    zeroCopy: flags.zeroCopy,
    allowPlaintext: flags.allowPlaintext === true,
    signal,
    ...(level === undefined ? {} : { compressionLevel: level }),
    ...(dialect === undefined ? {} : { dialect }),
    ...(maxBandwidth === undefined ? {} : { maxBandwidthBytesPerSecond: maxBandwidth }),
    ...(uuid === undefined ? {} : { uuid }),
    ...(peerTimeout === undefined ? {} : { peerTimeoutMs: peerTimeout * 1000 }),
  }
}

/** On stderr: stdout is for the JSON object. */
async function sayWhatIsNeeded(directory: string, flags: Flags): Promise<void> {
  const manifest = await readManifest(directory)
  const { start, commands } = destinationRecipe({
    manifest,
    channels: flags.channels,
    compression: flags.compression,
    uuid: flags.uuid ?? manifest.uuid ?? '0',
    dialect: flags.dialect ?? manifest.dialect,
  })
  const lines = [
    'Each QEMU needs, with the devices of the stored guest:',
    `  ${start}`,
    'then in its monitor (HMP):',
    ...commands.map(({ hmp }) => `  ${hmp}`),
    'or by QMP:',
    ...commands.map(({ qmp }) => `  ${qmp}`),
  ]
  console.error(lines.join('\n'))
  if (!isHashed(manifest)) console.error(`multifd: warning: ${NOT_HASHED}`)
}

function openReport(directory: string, uris: readonly string[], { channels, report }: Flags) {
  const over = uris.join(', ')
  const lead = `From ${directory} to ${over}, over ${channels} channels each.`
  return RunningReport.open(report, { title: 'A snapshot becomes a guest', lead, over }, warn)
}

async function showProgress(
  sending: SnapshotSending,
  page: RunningReport | undefined,
): Promise<void> {
  const line = new StatusLine()
  try {
    for await (const event of sending) {
      line.show(progressText(event))
      page?.recorder.sending(event)
    }
  } finally {
    line.clear()
  }
}

function progressText({ status, elapsedMs, destinations }: SendProgress): string {
  const spent = formatSeconds(elapsedMs)
  if (status === 'verifying') return `comparing the snapshot with its manifest, ${spent}`
  const each = destinations.map((destination) => {
    const left = formatBytes(destination.remainingBytes)
    return `${destination.status}, ${left} left, ${formatBytes(destination.bytesPerSecond)}/s`
  })
  return `${each.join(' | ')}, ${spent}`
}

function report(outcomes: readonly SendOutcome[], { json, paused }: Flags): void {
  for (const outcome of outcomes) {
    if (outcome.status === 'completed') continue
    console.error(`multifd: ${outcome.uri}: ${outcome.error.message}`)
  }
  if (json) {
    printJson({ destinations: outcomes.map(plain) })
    return
  }
  for (const outcome of outcomes) {
    if (outcome.status !== 'completed') continue
    const { uri, transferredBytes, totalTimeMs } = outcome
    const state = paused ? 'is there, paused' : 'goes on there'
    const amount = formatBytes(transferredBytes)
    console.log(`The guest ${state}: ${uri}, ${amount} in ${formatSeconds(totalTimeMs)}.`)
  }
}

function plain(outcome: SendOutcome): object {
  return outcome.status === 'completed' ? outcome : { ...outcome, error: asFields(outcome.error) }
}

function printJson(value: object): void {
  console.log(JSON.stringify(value))
}

function asFields(error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) }
  return { code: (error as { code?: string }).code ?? null, message: error.message }
}
