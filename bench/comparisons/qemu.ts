// How fast RAM moves with a QEMU at neither, one or both ends: QEMU to QEMU is what the others are
// held against. The guests are paused and their RAM is incompressible, so that the transport is all
// there is to measure. Snapshots are stored in a tmpfs; storing on a disk is shown apart.
import { readFileSync, realpathSync, rmSync, statfsSync } from 'node:fs'
import type { Command } from 'commander'
import type { Comparison, Findings, Setting, Skipped } from '../comparison.ts'
import { cpuPerGb, parseMemory, verdict, WARM_UPS } from '../contestants.ts'
import { type MigrationRun, runMigration } from '../migration.ts'
import { CHANNELS_RANGE, numberOption, PAIRS_RANGE, sizeOption } from '../options.ts'
import { type QemuBinary, qemuBinary } from '../qemu/binary.ts'
import { ScratchFolder } from '../qemu/scratch-folder.ts'
import {
  qemuToSnapshot,
  type SentTransfer,
  type StoredTransfer,
  snapshotToQemu,
} from '../qemu/snapshot-transfer.ts'
import { hashTable, type QemuTurns, throughputOf, transferTable } from '../qemu/tables.ts'
import { type PairFigures, qemuToQemu } from '../qemu/transfer.ts'
import { formatBytes } from '../report.ts'
import { alternate, pairedRatio, type Ratio, type Turn, turnName } from '../run.ts'
import { kibibyteLine } from '../sides/meter.ts'

const GIB = 2 ** 30
const SMOKE = { memory: 64 * 2 ** 20, pairs: 1 }
const TMPFS_MAGIC = 0x01021994
/** What two QEMUs and two sides of ours need beside guest RAM. */
const BESIDE_RAM_BYTES = GIB / 2

const TARGETS = {
  throughputVsQemu: { atLeast: 2.5 },
  cpuVsQemu: { atMost: 0.45 },
  receiveVsQemu: { atLeast: 1 },
  sendVsQemu: { atLeast: 1 },
} as const

export interface QemuComparisonOptions {
  readonly memory: number
  readonly channels: number
  readonly pairs: number
  /** Folders to store snapshots in. */
  readonly tmpfs: string
  readonly disk: string
  readonly smoke?: boolean
}

export const qemu: Comparison<QemuComparisonOptions> = {
  name: 'qemu',
  question: 'how do our two ends, and one of them with a QEMU, compare with QEMU to QEMU?',
  minutes: 12,
  declare: (command: Command) =>
    command
      .addOption(
        sizeOption('--memory <size>', 'guest RAM, at most 4GiB')
          .default(4 * GIB, '4GiB')
          .argParser(parseMemory),
      )
      .addOption(numberOption('--channels <n>', 'multifd channels', CHANNELS_RANGE).default(2))
      .addOption(numberOption('--pairs <n>', 'alternating turns', PAIRS_RANGE).default(9))
      .option('--tmpfs <dir>', 'a tmpfs, for the snapshots', '/dev/shm')
      .option('--disk <dir>', 'a folder on a disk, for the snapshots shown apart', '/var/tmp')
      .option('--smoke', `only to see that it works: ${formatBytes(SMOKE.memory)}, one turn`),
  run,
}

async function run(given: Setting<QemuComparisonOptions>): Promise<Findings> {
  const { smoke } = given.options
  const setting = smoke ? { ...given, options: { ...given.options, ...SMOKE } } : given
  const { options } = setting
  let binary: QemuBinary
  try {
    binary = await qemuBinary()
  } catch (error) {
    const skipped = [{ what: 'everything', reason: (error as Error).message }]
    return { results: {}, ratios: {}, tables: [], notes: [], skipped }
  }
  checkMemory(options)
  const tmpfs = refusalOf(options.tmpfs, options.memory, true)
  const disk = refusalOf(options.disk, options.memory, false)
  const turns = await takeTurns(setting, { tmpfs: tmpfs === undefined, disk: disk === undefined })
  const ratios = ratiosOf(turns)
  const skipped: Skipped[] = []
  if (tmpfs !== undefined) skipped.push({ what: 'snapshots in a tmpfs', reason: tmpfs })
  if (disk !== undefined) skipped.push({ what: 'snapshots on a disk', reason: disk })
  const { memory: memoryBytes, channels } = options
  return {
    results: { memoryBytes, channels, ...turns },
    ratios,
    tables: [transferTable(memoryBytes, channels, turns), hashTable(turns)],
    notes: notesOf(options, turns, ratios),
    qemu: binary.version,
    skipped,
  }
}

/** Why no snapshot can be stored there, or undefined. */
function refusalOf(folder: string, memory: number, tmpfs: boolean): string | undefined {
  let found: ReturnType<typeof statfsSync>
  try {
    found = statfsSync(folder)
  } catch (error) {
    return `${folder}: ${(error as Error).message}`
  }
  const { type, bavail, bsize } = found
  if ((type === TMPFS_MAGIC) !== tmpfs) return `${folder} is ${tmpfs ? 'no' : 'a'} tmpfs`
  const room = bavail * bsize
  if (room > memory * 1.1) return undefined
  return `${folder} has room for ${formatBytes(room)}, a snapshot has ${formatBytes(memory)}`
}

/** Of the file system that holds this folder. */
function mountOptions(folder: string): string {
  const path = `${realpathSync(folder)}/`
  const mounts = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
  const holding = mounts.filter(([, at = '-']) => path.startsWith(at.endsWith('/') ? at : `${at}/`))
  const longest = holding.sort(([, a = ''], [, b = '']) => b.length - a.length)[0]
  return longest?.[3] ?? 'unknown options'
}

/** At most two hold the guest's RAM at a time: two QEMUs, two sides, or a QEMU and a tmpfs. */
function checkMemory({ memory }: QemuComparisonOptions): void {
  const available = kibibyteLine('/proc/meminfo', 'MemAvailable')
  const needed = 2 * memory + BESIDE_RAM_BYTES
  if (available >= needed) return
  throw new RangeError(
    `--memory is ${formatBytes(memory)}, which takes ${formatBytes(needed)} of memory, and ` +
      `${formatBytes(available)} are available: name a smaller size`,
  )
}

async function takeTurns(
  { options, signal, progress }: Setting<QemuComparisonOptions>,
  there: { readonly tmpfs: boolean; readonly disk: boolean },
): Promise<QemuTurns> {
  const { memory, channels, pairs } = options
  const said = <R extends { readonly seconds: number }>(turn: Turn, name: string, run: R): R => {
    const speed = (memory / run.seconds / 1e9).toFixed(2)
    progress(`${turnName(turn, pairs)}  ${name}: ${speed} GB/s`)
    return run
  }
  const tmpfs = there.tmpfs ? new ScratchFolder(options.tmpfs) : undefined
  const disk = there.disk ? new ScratchFolder(options.disk) : undefined
  const transfer = { memoryBytes: memory, channels, signal, tmpfs: tmpfs?.path }
  let ramFile = '' // of the snapshot that this turn stored in the tmpfs
  const store = (folder: ScratchFolder, turn: Turn) =>
    qemuToSnapshot({ ...transfer, directory: folder.file('snapshot'), checked: turn.warmUp })
  const remove = (folder: ScratchFolder) => rmSync(folder.file('snapshot'), { recursive: true })
  try {
    const turns = await alternate(
      {
        qemu: async (turn) => said(turn, 'QEMU to QEMU', await qemuToQemu(transfer)),
        ours: async (turn) => said(turn, 'ours to ours', await migrate(options, turn, signal)),
        receive: async (turn) => {
          if (tmpfs === undefined) return null
          const run = said(turn, 'QEMU to receive, tmpfs', await store(tmpfs, turn))
          ramFile = run.ramFile
          return run
        },
        send: async (turn) => {
          if (tmpfs === undefined) return null
          const directory = tmpfs.file('snapshot')
          const way = { ...transfer, directory, ramFile, checked: turn.warmUp }
          const run = await snapshotToQemu(way)
          remove(tmpfs)
          return said(turn, 'send to QEMU', run)
        },
        receiveDisk: async (turn) => {
          if (disk === undefined) return null
          const run = await store(disk, turn)
          remove(disk)
          return said(turn, 'QEMU to receive, disk', run)
        },
      },
      { turns: pairs, signal },
    )
    const { qemu: pairsOfQemu, ours } = turns
    const [receive, send] = [present(turns.receive), present(turns.send)]
    return { qemu: pairsOfQemu, ours, receive, send, receiveDisk: present(turns.receiveDisk) }
  } finally {
    tmpfs?.remove()
    disk?.remove()
  }
}

const present = <Run>(runs: readonly (Run | null)[]): Run[] => runs.filter((run) => run !== null)

/** Everything as by default: huge pages, engine and zero-copy included. */
function migrate(
  { memory, channels }: QemuComparisonOptions,
  { warmUp }: Turn,
  signal: AbortSignal,
): Promise<MigrationRun> {
  const runs = { count: 0, runBytes: 0 }
  const guest = { kind: 'anonymous', sizeBytes: memory, hugePages: true, runs } as const
  const ways = { engine: 'auto', zeroCopy: 'auto', warmUps: WARM_UPS, watchMemory: false } as const
  return runMigration({ ...ways, guest, channels, checksum: warmUp }, memory, { signal })
}

function ratiosOf(turns: QemuTurns): Record<string, Ratio> {
  const { qemu: base, ours, receive, send, receiveDisk } = turns
  const speeds = base.map(({ bytesPerSecond }) => bytesPerSecond)
  const cpus = base.map(({ cpuSecondsPerGigabyte }) => cpuSecondsPerGigabyte)
  const versus = <R extends { readonly ramBytes: number }>(
    runs: readonly R[],
    seconds: (run: R) => number,
  ): Ratio =>
    pairedRatio(
      runs.map((run) => throughputOf(run.ramBytes, seconds(run)) * 1e9),
      speeds,
    )
  const hashed = (run: StoredTransfer) => run.seconds + run.hashing.seconds
  const seconds = (run: { readonly seconds: number }) => run.seconds
  const bothSides = (run: MigrationRun) => cpuPerGb(run, 'source') + cpuPerGb(run, 'destination')
  return {
    throughputVsQemu: versus(ours, seconds),
    cpuVsQemu: pairedRatio(ours.map(bothSides), cpus),
    ...(receive.length > 0 && {
      receiveVsQemu: versus(receive, seconds),
      receiveHashedVsQemu: versus(receive, hashed),
    }),
    ...(send.length > 0 && {
      sendVsQemu: versus(send, seconds),
      sendUnverifiedVsQemu: versus(send, (run: SentTransfer) => run.sending.seconds),
    }),
    ...(receiveDisk.length > 0 && { receiveDiskVsQemu: versus(receiveDisk, seconds) }),
  }
}

function notesOf(
  { pairs, tmpfs, disk }: QemuComparisonOptions,
  { ours, qemu: base, send, receiveDisk }: QemuTurns,
  ratios: Record<string, Ratio>,
): string[] {
  const huge = Math.min(...ours.map(({ source }) => source.hugePageBytes))
  const engines = [...new Set(send.map(({ engine, engineReason }) => `${engine}, ${engineReason}`))]
  const setup = Math.max(...base.map(({ setupSeconds }: PairFigures) => setupSeconds))
  const inDisk = receiveDisk.length > 0 ? `${disk} on a disk, ` : ''
  return [
    ...Object.entries(TARGETS).flatMap(([name, target]) => {
      const ratio = ratios[name]
      return ratio === undefined ? [] : [verdict(name, ratio, target)]
    }),
    `A QEMU that sends: its own total time, to the word of the destination (at most ${setup} s of it ` +
      'setup). Ours that sends: from the call to its result.',
    `receive (${inDisk}${tmpfs} otherwise): that word is given when every file is durable, and the ` +
      'RAM is hashed behind it; receiveHashedVsQemu counts that, too.',
    'send: every file is compared with its hashes before the first connect; sendUnverifiedVsQemu ' +
      'begins at the first connect.',
    'RAM is pre-faulted on both sides, except that a snapshot begins as files without a page; just ' +
      'before, as much memory was taken and given back, so that the host of a virtual machine has it.',
    'In the warm-up turn the RAM was compared byte by byte, our pair hashed it: identical.',
    `The tmpfs, ${tmpfs}, is mounted with: ${mountOptions(tmpfs)}. Without huge= it has small pages.`,
    `Huge pages really back at least ${formatBytes(huge)} at our source; QEMU asks for them, too.`,
    engines.length > 0 ? `send went by ${engines.join('; ')}.` : '',
    pairs < 9 ? 'Fewer than 9 turns: these figures prove nothing.' : '',
  ].filter((note) => note !== '')
}
