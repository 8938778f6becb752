// A QEMU at one end and a side of ours (bench/sides) at the other: a guest that is stored, and one
// that is sent from where it was stored. Time and CPU time of both ends, each by its own account.
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Child } from '../child.ts'
import { both, sideCommand } from '../migration.ts'
import type {
  SentLine,
  SnapshotOrder,
  SnapshotReady,
  Span,
  StoredLine,
} from '../sides/snapshot-lines.ts'
import type { QemuGuest } from './guest.ts'
import {
  measureMigration,
  ramIsInFile,
  startDestination,
  startFilledSource,
  type TransferOptions,
} from './transfer.ts'

export interface SnapshotTransferOptions extends TransferOptions {
  /** Of the snapshot. */
  readonly directory: string
  /** Where a file as large as the guest may be for a moment; else memory is taken as it comes. */
  readonly tmpfs: string | undefined
  /** Compare QEMU's RAM with the stored one afterwards, byte by byte. */
  readonly checked: boolean
  readonly signal: AbortSignal
}

/** What every transfer with a QEMU has to show. */
export interface QemuTransfer {
  /** Of the guest's RAM. */
  readonly ramBytes: number
  readonly seconds: number
  readonly sourceCpuSeconds: number
  readonly destinationCpuSeconds: number
}

export interface StoredTransfer extends QemuTransfer {
  /** `seconds` is QEMU's own total time: everything is durable when it ends. */
  readonly storing: Span
  readonly hashing: Span
  /** The file with the guest's RAM. */
  readonly ramFile: string
}

export interface SentTransfer extends QemuTransfer {
  /** `seconds` is from the call to its result; this part of it is from the first connect on. */
  readonly sending: Span
  readonly engine: string
  readonly engineReason: string
}

/** A QEMU with random RAM migrates into our `receive`. */
export async function qemuToSnapshot(options: SnapshotTransferOptions): Promise<StoredTransfer> {
  const { memoryBytes, signal } = options
  await using source = await startFilledSource(options)
  return await endedBySignal(signal, source, async () => {
    await using side = await startSide('receive', options)
    const { uri } = await side.expect<SnapshotReady>('ready', { signal })
    if (options.tmpfs !== undefined) await takeAndGiveBack(options.tmpfs, memoryBytes)
    const [figures, stored] = await both(
      measureMigration(source, uri),
      side.expect<StoredLine>('done', { signal }),
    )
    const { storing, hashing, ramFile } = stored
    if (options.checked) await checkRam(source, ramFile)
    return {
      ramBytes: memoryBytes,
      seconds: figures.seconds,
      sourceCpuSeconds: figures.sourceCpuSeconds,
      destinationCpuSeconds: storing.cpuSeconds,
      storing,
      hashing,
      ramFile,
    }
  })
}

/** Our `send` replays what `qemuToSnapshot` stored into a QEMU that waits. */
export async function snapshotToQemu(
  options: SnapshotTransferOptions & Pick<StoredTransfer, 'ramFile'>,
): Promise<SentTransfer> {
  const { memoryBytes, signal, ramFile } = options
  await using destination = await startDestination(options)
  return await endedBySignal(signal, destination, async () => {
    await using side = await startSide('send', options)
    await side.expect<SnapshotReady>('ready', { signal })
    const uri = await destination.incoming()
    const cpuBefore = destination.cpuSeconds()
    side.say(uri)
    const [sent] = await both(
      side.expect<SentLine>('done', { signal }),
      destination.waitFor('completed', { timeLimitMs: TRANSFER_LIMIT_MS }),
    )
    const destinationCpuSeconds = destination.cpuSeconds() - cpuBefore
    if (options.checked) await checkRam(destination, ramFile)
    const { whole, sending, engine, engineReason } = sent
    return {
      ramBytes: memoryBytes,
      seconds: whole.seconds,
      sourceCpuSeconds: whole.cpuSeconds,
      destinationCpuSeconds,
      sending,
      engine,
      engineReason,
    }
  })
}

/** A transfer that takes longer is given up, milliseconds. */
const TRANSFER_LIMIT_MS = 300_000
const PIECE_BYTES = 16 << 20

/**
 * Takes memory for so many bytes from the kernel, and gives it back. A file has no page before the
 * first one arrives, so it cannot be pre-faulted as RAM is; but where this machine is a virtual
 * one, its host may have to find the memory first, which costs several times what the machine's
 * own kernel takes. That is not for who comes first to pay.
 */
async function takeAndGiveBack(folder: string, bytes: number): Promise<void> {
  const path = join(folder, 'taken')
  const piece = Buffer.alloc(PIECE_BYTES, 1)
  try {
    await using file = await open(path, 'wx')
    await file.truncate(bytes) // a tmpfs may give huge pages within the size of a file only
    for (let at = 0; at < bytes; at += PIECE_BYTES) {
      await file.write(piece, 0, Math.min(PIECE_BYTES, bytes - at), at)
    }
  } finally {
    await rm(path, { force: true })
  }
}

function startSide(
  name: 'receive' | 'send',
  { directory, channels, signal }: SnapshotTransferOptions,
): Promise<Child> {
  const order: SnapshotOrder = { directory, channels }
  const [file = '', ...args] = sideCommand(name, order)
  return Child.start(`the ${name} side`, file, args, { signal })
}

async function checkRam(guest: QemuGuest, ramFile: string): Promise<void> {
  if (await ramIsInFile(guest, ramFile)) return
  throw new Error(`RAM differs between ${guest.version} and ${ramFile}`)
}

/** The work; the signal ends the QEMU, and with it what waits for it. */
async function endedBySignal<T>(
  signal: AbortSignal,
  guest: QemuGuest,
  work: () => Promise<T>,
): Promise<T> {
  const end = () => void guest.kill()
  signal.addEventListener('abort', end, { once: true })
  try {
    signal.throwIfAborted()
    return await work()
  } catch (error) {
    signal.throwIfAborted()
    throw error
  } finally {
    signal.removeEventListener('abort', end)
  }
}
