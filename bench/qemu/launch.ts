// Starts one QEMU and holds it: its command line, its monitor connection, its end. It never
// outlives us: it is killed when it is disposed of, when this process exits, and by the kernel
// (PDEATHSIG, set by setpriv) should this process be killed. It knows nothing of migrations.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { type QemuBinary, qemuBinary } from './binary.ts'
import { type GuestKnobs, guestDisk } from './boot-sector.ts'
import { QmpClient } from './qmp.ts'
import { ScratchFolder } from './scratch-folder.ts'

/** Milliseconds from start to the first word on QMP; exists to end a hang. */
const START_LIMIT_MS = 60_000
/** How much of QEMU's stderr is kept, characters. */
const QUOTED_CHARACTERS = 4_000

/**
 * A running guest's RAM must not be a multiple of this under TCG. QEMU 7.2.22 reads the dirty
 * bitmap of such a block 64 pages at a time, clears it, and forgets to tell TCG's TLB: a page that
 * stays in the TLB is never seen as written again (later versions do tell it, from
 * cpu_physical_memory_sync_dirty_bitmap in include/exec/ram_addr.h). Measured over 3 or more
 * passes, 8 of 8 times: the page with the counter was 10 000 to 20 000 counts old at the
 * destination, QEMU to QEMU, with and without multifd. With 8 KiB more the bitmap is read page by
 * page: 8 of 8 times identical.
 */
export const MEMORY_TRAP_BYTES = 64 * 4096

/** 64 MiB, and 8 KiB because of MEMORY_TRAP_BYTES. */
export const GUEST_MEMORY_BYTES = (64 << 20) + 8192

export interface QemuOptions {
  /** What errors call it: "source", "destination"; "QEMU" unless given. */
  readonly name?: string
  /** pc-q35-7.2 unless given, which every QEMU from 7.2 on has; 'q35' is the newest it knows. */
  readonly machine?: string
  /** Guest RAM, a multiple of 8 KiB; GUEST_MEMORY_BYTES unless given. Mind MEMORY_TRAP_BYTES. */
  readonly memoryBytes?: number
  /**
   * What holds the RAM. QEMU's own, anonymous (the default); 'ram' and 'memfd', memory backends;
   * or a file, which is shared: what the guest writes is in the file, what the file holds at the
   * start is the guest's RAM. The RAM block is called pc.ram with each of them.
   */
  readonly ram?: 'anonymous' | 'ram' | 'memfd' | { readonly file: string }
  /** Makes all RAM resident before QEMU answers; not with anonymous RAM. */
  readonly preallocated?: boolean
  /** Starts with the guest stopped before its first instruction (-S). */
  readonly paused?: boolean
  /** Waits for `incoming()` instead of starting a guest (-incoming defer). */
  readonly incoming?: boolean
  /** Knobs of the boot sector that the machine boots from; both sides have that disk. */
  readonly guest?: GuestKnobs
  /** Files put into RAM at reset, at physical addresses; an incoming QEMU ignores them. */
  readonly load?: readonly { readonly file: string; readonly address: number }[]
  /** Accelerator; tcg unless given. */
  readonly accel?: string
  /** More arguments, at the end. */
  readonly extra?: readonly string[]
}

/** How a QEMU ended. */
export interface QemuExit {
  /** null after a signal. */
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stderr: string
}

export class LaunchedQemu {
  readonly binary: QemuBinary
  readonly options: QemuOptions
  readonly folder: ScratchFolder
  readonly qmp: QmpClient
  /** Settles when it ended, with how. */
  readonly exited: Promise<QemuExit>
  readonly #started: Started

  private constructor(started: Started, qmp: QmpClient) {
    this.#started = started
    this.binary = started.binary
    this.options = started.options
    this.folder = started.folder
    this.exited = started.exited
    this.qmp = qmp
  }

  /** Rejects with QEMU's own words when it does not start. */
  static async start(options: QemuOptions = {}): Promise<LaunchedQemu> {
    const binary = await qemuBinary()
    const folder = new ScratchFolder()
    let started: Started | undefined
    try {
      const monitor = await listen(folder.file('qmp'))
      started = new Started(binary, options, folder)
      const socket = await firstOf(monitor, started)
      const { exited } = started
      const whyClosed = async () => new Error(exitSentence(options, await exited))
      return new LaunchedQemu(started, await QmpClient.open(socket, { whyClosed }))
    } catch (error) {
      await started?.end()
      folder.remove()
      throw error
    }
  }

  get pid(): number {
    return this.#started.pid
  }

  /** What it has printed to stderr so far, the last of it. */
  get stderr(): string {
    return this.#started.stderr
  }

  /** Kills it if it still runs, waits for its end and removes its folder. */
  async end(): Promise<QemuExit> {
    const exit = await this.#started.end()
    this.qmp.close()
    this.folder.remove()
    return exit
  }
}

class Started {
  readonly binary: QemuBinary
  readonly options: QemuOptions
  readonly folder: ScratchFolder
  readonly exited: Promise<QemuExit>
  readonly #child: ChildProcess
  readonly #kill = () => this.#child.kill('SIGKILL')
  stderr = ''

  constructor(binary: QemuBinary, options: QemuOptions, folder: ScratchFolder) {
    this.binary = binary
    this.options = options
    this.folder = folder
    writeFileSync(folder.file('boot.img'), guestDisk(options.guest))
    const [file = '', ...args] = tied([binary.file, ...argumentsOf(options, folder)])
    this.#child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    process.on('exit', this.#kill)
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr = (this.stderr + text).slice(-QUOTED_CHARACTERS)
    })
    this.exited = this.#end()
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  end(): Promise<QemuExit> {
    this.#kill()
    return this.exited
  }

  async #end(): Promise<QemuExit> {
    // A program that cannot be executed has an error and no end.
    const failed = await Promise.race([
      once(this.#child, 'close').then(() => undefined),
      once(this.#child, 'error').then(([error]) => error as Error),
    ]).catch((error: Error) => error)
    process.off('exit', this.#kill)
    const { exitCode: code, signalCode: signal } = this.#child
    return { code, signal, stderr: failed ? failed.message : this.stderr }
  }
}

/** "the source QEMU ended with exit status 1: ..." */
export function exitSentence({ name }: QemuOptions, { code, signal, stderr }: QemuExit): string {
  const how = signal === null ? `exit status ${code}` : signal
  const who = name === undefined ? 'QEMU' : `the ${name} QEMU`
  return `${who} ended (${how}): ${stderr.trim() || 'without a word'}`
}

function argumentsOf(options: QemuOptions, folder: ScratchFolder): string[] {
  const { machine = 'pc-q35-7.2', ram = 'anonymous', accel = 'tcg' } = options
  const size = `${memoryBytesOf(options) / 1024}K`
  const backend = typeof ram === 'object' ? `file,share=on,mem-path=${escaped(ram.file)}` : ram
  const prealloc = options.preallocated ? ',prealloc=on' : ''
  const object = `memory-backend-${backend},id=pc.ram,size=${size}${prealloc}`
  const withBackend = ram === 'anonymous' ? '' : ',memory-backend=pc.ram'
  const disk = `if=none,id=boot,format=raw,readonly=on,file=${escaped(folder.file('boot.img'))}`
  return [
    ...['-no-user-config', '-nodefaults', '-display', 'none', '-accel', accel],
    ...['-machine', `${machine}${withBackend}`, '-m', size],
    ...(ram === 'anonymous' ? [] : ['-object', object]),
    // QEMU connects to us, so that there is nothing to wait for but its first word.
    ...['-qmp', `unix:${escaped(folder.file('qmp'))}`],
    ...['-drive', disk, '-device', 'virtio-blk-pci,drive=boot'],
    ...(options.load ?? []).flatMap(({ file, address }) => [
      '-device',
      `loader,file=${escaped(file)},addr=0x${address.toString(16)},force-raw=on`,
    ]),
    ...(options.paused ? ['-S'] : []),
    ...(options.incoming ? ['-incoming', 'defer'] : []),
    ...(options.extra ?? []),
  ]
}

/** The guest's RAM, bytes. Throws a RangeError on what QEMU would round, or spoil. */
export function memoryBytesOf(options: QemuOptions): number {
  const { memoryBytes = GUEST_MEMORY_BYTES, paused, incoming, accel = 'tcg' } = options
  if (!(memoryBytes > 0 && memoryBytes % 8192 === 0)) {
    throw new RangeError(`memoryBytes is ${memoryBytes}, expected a multiple of 8192`)
  }
  const runs = !paused && !incoming && accel === 'tcg'
  if (runs && memoryBytes % MEMORY_TRAP_BYTES === 0) {
    throw new RangeError(
      `memoryBytes is ${memoryBytes}, expected no multiple of ${MEMORY_TRAP_BYTES} for a guest ` +
        'that runs: QEMU 7.2 loses pages of it; add 8192',
    )
  }
  return memoryBytes
}

// Within an option of QEMU a comma ends the value; a doubled one is a comma.
const escaped = (path: string): string => path.replaceAll(',', ',,')

let pdeathsig: boolean | undefined

// With setpriv (util-linux) the kernel kills the program when the thread that started it dies.
function tied(argv: string[]): string[] {
  const prefix = ['setpriv', '--pdeathsig', 'KILL', '--']
  pdeathsig ??= spawnSync('setpriv', [...prefix.slice(1), 'true']).status === 0
  return pdeathsig ? [...prefix, ...argv] : argv
}

interface Monitor {
  readonly connected: Promise<Socket>
  close(): void
}

async function listen(path: string): Promise<Monitor> {
  const server = createServer()
  server.listen(path)
  await once(server, 'listening')
  const connected = once(server, 'connection').then(([socket]) => socket as Socket)
  return { connected, close: () => server.close() }
}

async function firstOf(monitor: Monitor, started: Started): Promise<Socket> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    const said = () => new Error(`QEMU said nothing on QMP within ${START_LIMIT_MS / 1e3} s`)
    timer = setTimeout(() => reject(said()), START_LIMIT_MS)
  })
  const ended = started.exited.then((exit) => {
    throw new Error(exitSentence(started.options, exit))
  })
  try {
    return await Promise.race([monitor.connected, ended, late])
  } finally {
    clearTimeout(timer)
    monitor.close()
    ended.catch(() => {}) // it ends later, too
  }
}
