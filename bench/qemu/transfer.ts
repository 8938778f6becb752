// What QEMU needs for moving RAM from one QEMU to another: time by its own report, CPU time of both
// by the kernel's account. The guest is paused and its RAM incompressible, so that the transport is
// all there is to measure, unless it is asked to run. The parts are exported for comparisons with
// something else at one end.
import { randomFillSync } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { GUEST_COUNTER, type GuestKnobs } from './boot-sector.ts'
import { QemuGuest } from './guest.ts'

/** Bytes written or compared at a time. */
const PIECE_BYTES = 16 << 20
const PAGE_BYTES = 4096
/** What a guest has written when it is taken for running. */
const WARM_PAGES = 1000
/** A transfer that takes longer is given up, milliseconds. */
const TRANSFER_LIMIT_MS = 300_000

export interface TransferOptions {
  /** A multiple of 8192; the RAM block is one piece however much lies above 4 GiB. */
  readonly memoryBytes: number
  readonly channels: number
  /**
   * What holds the RAM on both sides: 'ram' (the default), private memory with huge pages where
   * the system gives them, as QEMU has it by itself; or 'memfd', shared memory.
   */
  readonly backend?: 'ram' | 'memfd'
  readonly machine?: string
  /** False: all pages on the main channel; true unless given. */
  readonly multifd?: boolean
  /** Lets the guest run and rewrite a window of its RAM; paused unless given. */
  readonly guest?: GuestKnobs
}

export interface TransferFigures {
  /** QEMU's own total time, with return path: until the destination said it has all. */
  readonly seconds: number
  readonly bytesPerSecond: number
  /** What QEMU says it sent. */
  readonly transferredBytes: number
  readonly setupSeconds: number
  readonly downtimeSeconds: number
  /** From the migrate command to "completed". */
  readonly sourceCpuSeconds: number
}

export interface PairFigures extends TransferFigures {
  readonly qemu: string
  readonly destinationCpuSeconds: number
  /** What a running guest rewrote, bytes of its pages. */
  readonly guestBytesPerSecond: number
  /** Of both, per 10^9 bytes of RAM. */
  readonly cpuSecondsPerGigabyte: number
}

/** One migration from QEMU to QEMU; both are started for it and gone afterwards. */
export async function qemuToQemu(
  options: TransferOptions & { readonly signal?: AbortSignal },
): Promise<PairFigures> {
  const { memoryBytes, signal } = options
  await using source = await startFilledSource(options)
  await using destination = await startDestination(options)
  const stop = () => {
    void source.kill()
    void destination.kill()
  }
  signal?.addEventListener('abort', stop, { once: true })
  try {
    signal?.throwIfAborted()
    const uri = await destination.incoming()
    const wrote = options.guest === undefined ? undefined : await letWrite(source)
    const cpuBefore = destination.cpuSeconds()
    const figures = await measureMigration(source, uri)
    await destination.waitFor('completed')
    const destinationCpuSeconds = destination.cpuSeconds() - cpuBefore
    const cpuSeconds = figures.sourceCpuSeconds + destinationCpuSeconds
    return {
      ...figures,
      qemu: source.version,
      destinationCpuSeconds,
      guestBytesPerSecond: (await wrote?.()) ?? 0,
      cpuSecondsPerGigabyte: cpuSeconds / (memoryBytes / 1e9),
    }
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  } finally {
    signal?.removeEventListener('abort', stop)
  }
}

const setupOf = ({ channels, multifd = true }: TransferOptions) => ({ channels, multifd })

/** Lets the guest run; how fast it writes since then, bytes per second, once it has stopped. */
async function letWrite(guest: QemuGuest): Promise<() => Promise<number>> {
  // RAM was filled with random bytes, where the guest will count, too.
  await using memory = await open(`/proc/${guest.pid}/mem`, 'r+')
  await memory.write(Buffer.alloc(4), 0, 4, (await guest.ramHostAddress()) + GUEST_COUNTER)
  await guest.cont()
  const before = await guest.counterBeyond(WARM_PAGES)
  const startedMs = performance.now()
  return async () => {
    const seconds = (performance.now() - startedMs) / 1e3
    return (((await guest.counter()) - before) * PAGE_BYTES) / seconds
  }
}

/** A QEMU whose paused guest's RAM is resident and random, ready to migrate. */
export async function startFilledSource(options: TransferOptions): Promise<QemuGuest> {
  const source = await startPreallocated('source', options, { paused: true })
  try {
    await fillRam(source)
    await source.enableMultifd(setupOf(options))
    return source
  } catch (error) {
    await source.kill()
    throw error
  }
}

/** A QEMU with resident RAM that waits for `incoming()`; its guest stays paused. */
export async function startDestination(options: TransferOptions): Promise<QemuGuest> {
  const destination = await startPreallocated('destination', options, { incoming: true })
  try {
    await destination.enableMultifd(setupOf(options))
    return destination
  } catch (error) {
    await destination.kill()
    throw error
  }
}

/** Migrates there and reads the figures. */
export async function measureMigration(source: QemuGuest, uri: string): Promise<TransferFigures> {
  const cpuBefore = source.cpuSeconds()
  await source.migrate(uri)
  const report = await source.waitFor('completed', { timeLimitMs: TRANSFER_LIMIT_MS })
  const sourceCpuSeconds = source.cpuSeconds() - cpuBefore
  const seconds = (report['total-time'] ?? Number.NaN) / 1e3
  return {
    seconds,
    bytesPerSecond: source.memoryBytes / seconds,
    transferredBytes: report.ram?.transferred ?? Number.NaN,
    setupSeconds: (report['setup-time'] ?? Number.NaN) / 1e3,
    downtimeSeconds: (report.downtime ?? Number.NaN) / 1e3,
    sourceCpuSeconds,
  }
}

/** Fills all RAM of a paused guest with random bytes, through /proc: QMP has no such command. */
export async function fillRam(guest: QemuGuest): Promise<void> {
  const random = randomFillSync(Buffer.alloc(PIECE_BYTES))
  await eachPiece(guest, 'r+', async ({ memory, at, address, bytes }) => {
    random.writeUIntLE(at, 0, 6) // else a displaced piece would not be noticed
    const { bytesWritten } = await memory.write(random, 0, bytes, address)
    if (bytesWritten < bytes) throw new Error(`${bytesWritten} of ${bytes} bytes of RAM written`)
  })
}

/** Whether the RAM of both, which must be stopped, is the same byte by byte. */
export async function sameRam(a: QemuGuest, b: QemuGuest): Promise<boolean> {
  if (a.memoryBytes !== b.memoryBytes) return false
  const ofA = Buffer.alloc(PIECE_BYTES)
  const ofB = Buffer.alloc(PIECE_BYTES)
  const offset = (await b.ramHostAddress()) - (await a.ramHostAddress())
  const other = await open(`/proc/${b.pid}/mem`, 'r')
  let same = true
  try {
    await eachPiece(a, 'r', async ({ memory, address, bytes }) => {
      const [read, otherRead] = await Promise.all([
        memory.read(ofA, 0, bytes, address),
        other.read(ofB, 0, bytes, address + offset),
      ])
      const complete = read.bytesRead === bytes && otherRead.bytesRead === bytes
      same &&= complete && ofA.compare(ofB, 0, bytes, 0, bytes) === 0
    })
  } finally {
    await other.close()
  }
  return same
}

/** Whether a file holds the RAM of this guest, which must be stopped, byte by byte. */
export async function ramIsInFile(guest: QemuGuest, path: string): Promise<boolean> {
  const ofGuest = Buffer.alloc(PIECE_BYTES)
  const ofFile = Buffer.alloc(PIECE_BYTES)
  await using file = await open(path, 'r')
  if ((await file.stat()).size !== guest.memoryBytes) return false
  let same = true
  await eachPiece(guest, 'r', async ({ memory, at, address, bytes }) => {
    const [read, stored] = await Promise.all([
      memory.read(ofGuest, 0, bytes, address),
      file.read(ofFile, 0, bytes, at),
    ])
    const complete = read.bytesRead === bytes && stored.bytesRead === bytes
    same &&= complete && ofGuest.compare(ofFile, 0, bytes, 0, bytes) === 0
  })
  return same
}

interface Piece {
  /** Of QEMU's own address space. */
  readonly memory: FileHandle
  readonly address: number
  /** Bytes of RAM before it. */
  readonly at: number
  readonly bytes: number
}

async function eachPiece(
  guest: QemuGuest,
  flags: 'r' | 'r+',
  visit: (piece: Piece) => Promise<void>,
): Promise<void> {
  const start = await guest.ramHostAddress()
  const memory = await open(`/proc/${guest.pid}/mem`, flags)
  try {
    for (let at = 0; at < guest.memoryBytes; at += PIECE_BYTES) {
      const bytes = Math.min(PIECE_BYTES, guest.memoryBytes - at)
      await visit({ memory, address: start + at, at, bytes })
    }
  } finally {
    await memory.close()
  }
}

function startPreallocated(
  name: string,
  { memoryBytes, backend = 'ram', machine, guest }: TransferOptions,
  role: { paused?: boolean; incoming?: boolean },
): Promise<QemuGuest> {
  return QemuGuest.start({
    name,
    ...role,
    ram: backend,
    preallocated: true,
    memoryBytes,
    ...(machine === undefined ? {} : { machine }),
    ...(guest === undefined ? {} : { guest }),
  })
}
