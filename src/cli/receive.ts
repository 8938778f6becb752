// `multifd receive`: a QEMU guest migrates in and lands on disk. It says what to type into that
// QEMU, shows how far it is, and leaves the work to receiveSnapshot.

import { CommanderError, Option } from 'commander'
import { formatBytes } from '../kit/format.ts'
import { CHANNELS_MAX } from '../kit/limits.ts'
import { COMPRESSIONS } from '../kit/native.ts'
import { outcomeOfReception } from '../report/outcomes.ts'
import { RunningReport } from '../report/running-report.ts'
import { sourceCommands } from '../snapshot/qemu-commands.ts'
import { CHANNELS_DEFAULT, type ReceiveSnapshotOptions } from '../snapshot/receive-options.ts'
import { type Reception, receiveSnapshot } from '../snapshot/receive-snapshot.ts'
import type { ReceptionProgress, ReceptionResult } from '../snapshot/reception.ts'
import { orWrongUsage, wholeNumberOf } from './arguments.ts'
import { type CommandDeclaration, EXIT_FAILED, REPORT_DESCRIPTION, warn } from './command.ts'
import { listenForInterrupts } from './interrupts.ts'
import { formatSeconds, StatusLine } from './status-line.ts'

const SECONDS_MAX = 24 * 3600

const EXPLANATION = `
URI is tcp:HOST:PORT (port 0: any free one), tcp:[IPv6]:PORT or unix:PATH. The QEMU needs the same
number of channels and the same compression; what to type there is printed first. The source is
told that it may give its guest up when everything is on the disk, and not before. Ctrl-C refuses
the migration: the guest runs on at the source.

Exit codes: 0 stored, 1 failed (the guest is still at the source, unless it says that the snapshot is
stored), 2 wrong usage, 130 interrupted.`

interface Flags {
  out: string
  channels: number
  compression: NonNullable<ReceiveSnapshotOptions['compression']>
  uuid?: string
  allowPlaintext?: true
  allowNoReturnPath?: true
  switchoverAck?: true
  peerTimeout?: number
  handshakeTimeout?: number
  report?: string
  json?: true
}

export const receive: CommandDeclaration = {
  name: 'receive',
  description: 'Takes a guest that a QEMU migrates here, and stores it as a snapshot.',
  declare(command, ended) {
    const seconds = wholeNumberOf(1, SECONDS_MAX)
    command
      .argument('<uri>', 'where to listen')
      .requiredOption('--out <dir>', 'the directory to store it in: empty, or not there')
      .option(
        '--channels <n>',
        `multifd-channels of the source, 0 to ${CHANNELS_MAX}; 0: its multifd is off`,
        wholeNumberOf(0, CHANNELS_MAX),
        CHANNELS_DEFAULT,
      )
      .addOption(
        new Option('--compression <method>', 'multifd-compression of the source')
          .choices(COMPRESSIONS)
          .default('none'),
      )
      .option('--uuid <uuid>', 'refuse another guest than this')
      .option('--allow-plaintext', 'listen beyond this machine, on a network you trust')
      .option('--allow-no-return-path', 'take a guest that is lost if storing it fails')
      .option('--switchover-ack', 'the source has switchover-ack on, with a machine before 8.1')
      .option('--handshake-timeout <seconds>', 'until all connections are there; 10', seconds)
      .option('--peer-timeout <seconds>', 'a source silent for so long has failed; 10', seconds)
      .option('--report <file>', REPORT_DESCRIPTION)
      .option('--json', 'print one JSON object at the end, on stdout')
      .addHelpText('after', EXPLANATION)
      .action(async (uri: string, flags: Flags) => {
        using interrupts = listenForInterrupts()
        const options = toOptions(flags, interrupts.signal)
        await using page = await orWrongUsage(openReport(uri, flags))
        try {
          const reception = await orWrongUsage(receiveSnapshot(uri, options))
          sayWhatToType(reception, flags)
          await showProgress(reception, page)
          const result = await reception.result
          await page?.completed(outcomeOfReception(result), result)
          report(result, flags)
        } catch (error) {
          await page?.failed(error, interrupts.signal.aborted ? 'cancelled' : 'failed')
          if (error instanceof CommanderError) throw error
          if (flags.json) printJson({ status: 'failed', ...asFields(error) })
          const { exitCode = EXIT_FAILED } = interrupts
          console.error(`multifd: ${error instanceof Error ? error.message : error}`)
          if (interrupts.exitCode !== undefined) console.error('The guest runs on at the source.')
          ended(exitCode)
        }
      })
  },
}

function toOptions(flags: Flags, signal: AbortSignal): ReceiveSnapshotOptions {
  const { uuid, peerTimeout, handshakeTimeout } = flags
  return {
    directory: flags.out,
    multifdChannels: flags.channels,
    compression: flags.compression,
    ...(uuid === undefined ? {} : { uuid }),
    ...(peerTimeout === undefined ? {} : { peerTimeoutMs: peerTimeout * 1000 }),
    ...(handshakeTimeout === undefined ? {} : { handshakeTimeoutMs: handshakeTimeout * 1000 }),
    allowPlaintext: flags.allowPlaintext === true,
    allowNoReturnPath: flags.allowNoReturnPath === true,
    switchoverAck: flags.switchoverAck === true,
    signal,
  }
}

/** On stderr: stdout is for the JSON object. */
function sayWhatToType({ uri }: Reception, { channels, compression }: Flags): void {
  const commands = sourceCommands({ channels, compression, uri })
  const lines = [
    `Waiting for a QEMU on ${uri}. In its monitor (HMP):`,
    ...commands.map(({ hmp }) => `  ${hmp}`),
    'or by QMP:',
    ...commands.map(({ qmp }) => `  ${qmp}`),
  ]
  console.error(lines.join('\n'))
}

function openReport(uri: string, { out, channels, report }: Flags) {
  const lead = `Into ${out}, over ${channels} channels.`
  return RunningReport.open(report, { title: 'A guest becomes a snapshot', lead, over: uri }, warn)
}

async function showProgress(reception: Reception, page: RunningReport | undefined): Promise<void> {
  const line = new StatusLine()
  try {
    for await (const event of reception) {
      line.show(progressText(event))
      page?.recorder.receiving(event)
    }
  } finally {
    line.clear()
  }
}

function progressText(event: ReceptionProgress): string {
  if (event.status === 'listening') return 'waiting for the source'
  const amount = `${formatBytes(event.receivedBytes)} of a guest of ${formatBytes(event.ramBytes)}`
  const rate = `${formatBytes(event.bytesPerSecond)}/s`
  const spent = formatSeconds(event.elapsedMs)
  return `${event.status}: ${amount}, ${rate}, ${event.round} sync points, ${spent}`
}

function report(result: ReceptionResult, { json }: Flags): void {
  for (const warning of result.warnings) console.error(`multifd: warning: ${warning}`)
  if (json) {
    printJson(result)
    return
  }
  const { manifest, directory, receivedBytes, storedMs } = result
  const ramBytes = manifest.ram.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  const seconds = formatSeconds(storedMs)
  console.log(
    `Stored ${manifest.machine} with ${formatBytes(ramBytes)} of RAM in ${directory}: ` +
      `${formatBytes(receivedBytes)} in ${seconds}, ${result.syncs} sync points.`,
  )
}

function printJson(value: object): void {
  console.log(JSON.stringify(value))
}

function asFields(error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) }
  return { code: (error as { code?: string }).code ?? null, message: error.message }
}
