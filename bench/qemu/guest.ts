// A QEMU with the boot-sector guest in it, as tests and comparisons use one: set up migration,
// start it, wait for it, look into the guest. What QEMU says is passed on, never interpreted
// beyond "completed" and "failed".
import { readFileSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import { GUEST_COUNTER, GUEST_ERRORS, withDefaults, wrongInWindow } from './boot-sector.ts'
import { LaunchedQemu, memoryBytesOf, type QemuExit, type QemuOptions } from './launch.ts'
import type { QmpClient, QmpLimits } from './qmp.ts'

/** Milliseconds to wait for a status unless told otherwise; exists to end a hang. */
const WAIT_LIMIT_MS = 60_000
/** How often a status is asked for where no event tells, milliseconds. */
const LOOK_INTERVAL_MS = 20
const ENDED = ['completed', 'failed', 'cancelled']
// USER_HZ, which Linux promises to user space on x86 and ARM.
const TICKS_PER_SECOND = 100

/** What may change while a migration runs. */
export interface MigrationLimits {
  /** Of the source, bytes per second; 0, which is unlimited, unless given. */
  readonly bandwidthBytesPerSecond?: number
  /** QEMU's own (300) unless given. */
  readonly downtimeLimitMs?: number
}

export interface MigrationSetup extends MigrationLimits {
  /** False: all pages on the main channel; true unless given. */
  readonly multifd?: boolean
  /** 2 unless given. Both sides of a migration need the same. */
  readonly channels?: number
  /** 'none' unless given. */
  readonly compression?: 'none' | 'zlib' | 'zstd'
  /** Of the compression; QEMU's own (1) unless given. */
  readonly level?: number
  /** The destination's word decides whether the source gives its guest up; true unless given. */
  readonly returnPath?: boolean
  /** More capabilities by name, set together with the others. */
  readonly capabilities?: Readonly<Record<string, boolean>>
  /** More parameters by name. */
  readonly parameters?: Readonly<Record<string, unknown>>
}

/** The members of query-migrate that we read; QEMU has more. */
export interface MigrateReport {
  readonly status?: string
  readonly 'error-desc'?: string
  /** Milliseconds. */
  readonly 'total-time'?: number
  readonly 'setup-time'?: number
  readonly downtime?: number
  readonly ram?: { readonly [name: string]: number }
  readonly 'socket-address'?: readonly { readonly type: string; readonly [name: string]: string }[]
}

export class QemuGuest implements AsyncDisposable {
  readonly #qemu: LaunchedQemu
  #saves = 0

  private constructor(qemu: LaunchedQemu) {
    this.#qemu = qemu
  }

  /** To be disposed of by whoever asked: `await using guest = await QemuGuest.start()`. */
  static async start(options: QemuOptions = {}): Promise<QemuGuest> {
    return new QemuGuest(await LaunchedQemu.start(options))
  }

  get qmp(): QmpClient {
    return this.#qemu.qmp
  }

  get pid(): number {
    return this.#qemu.pid
  }

  /** As the binary says it. */
  get version(): string {
    return this.#qemu.binary.version
  }

  /** Settles when this QEMU ended, with how. */
  get exited(): Promise<QemuExit> {
    return this.#qemu.exited
  }

  get stderr(): string {
    return this.#qemu.stderr
  }

  /** A folder of its own, gone when it is disposed of. */
  get folder(): string {
    return this.#qemu.folder.path
  }

  /** Of its RAM. */
  get memoryBytes(): number {
    return memoryBytesOf(this.#qemu.options)
  }

  /** Sets capabilities and parameters; on a destination before `incoming`. */
  async enableMultifd(setup: MigrationSetup = {}): Promise<void> {
    const { multifd = true, channels = 2, compression = 'none', returnPath = true } = setup
    const { level } = setup
    const wanted = { events: true, multifd, 'return-path': returnPath, ...setup.capabilities }
    const capabilities = Object.entries(wanted).map(([capability, state]) => ({
      capability,
      state,
    }))
    await this.qmp.execute('migrate-set-capabilities', { capabilities })
    await this.qmp.execute('migrate-set-parameters', {
      ...(multifd ? { 'multifd-channels': channels, 'multifd-compression': compression } : {}),
      ...(level === undefined ? {} : { [`multifd-${compression}-level`]: level }),
      ...setup.parameters,
    })
    await this.setLimits(setup)
  }

  /** Also while a migration runs. */
  async setLimits({ bandwidthBytesPerSecond = 0, downtimeLimitMs }: MigrationLimits) {
    await this.qmp.execute('migrate-set-parameters', {
      'max-bandwidth': bandwidthBytesPerSecond,
      ...(downtimeLimitMs === undefined ? {} : { 'downtime-limit': downtimeLimitMs }),
    })
  }

  /** Sends the guest there, as tcp:127.0.0.1:4444; returns when QEMU began. */
  async migrate(uri: string): Promise<void> {
    await this.qmp.execute('migrate', { uri })
  }

  /**
   * Listens; the URI to migrate to, with the port that was chosen where 0 was given. From then on
   * a connection that stays silent, or to 7.2 a multifd connection before the main one, freezes
   * QEMU's monitor: what waits here then ends with its time limit.
   */
  async incoming(uri = 'tcp:127.0.0.1:0'): Promise<string> {
    await this.qmp.execute('migrate-incoming', { uri })
    const { 'socket-address': [address] = [] } = await this.status()
    if (address === undefined) return uri
    const { type, host, port, path } = address
    return type === 'unix' ? `unix:${path}` : `tcp:${host}:${port}`
  }

  /** The answer to query-migrate. */
  status(limits: QmpLimits = {}): Promise<MigrateReport> {
    return this.qmp.execute<MigrateReport>('query-migrate', {}, limits)
  }

  /** The run state: running, paused, prelaunch, inmigrate, finish-migrate, postmigrate, ... */
  async runState(limits: QmpLimits = {}): Promise<string> {
    const { status } = await this.qmp.execute<{ status: string }>('query-status', {}, limits)
    return status
  }

  /**
   * Waits until the migration has this status; the report then. Rejects when it ends in another
   * one, with QEMU's words, when QEMU ends, and when the time is up.
   */
  async waitFor(status: string, limits: QmpLimits = {}): Promise<MigrateReport> {
    const what = `the migration status "${status}"`
    // A 7.2 source says "completed" first and fills in the figures of its report (total-time,
    // downtime, mbps are 0 until then) before its run state becomes postmigrate.
    const finished = async (rest: QmpLimits) =>
      status !== 'completed' ||
      this.#qemu.options.incoming === true ||
      (await this.runState(rest)) === 'postmigrate'
    return this.#until(what, limits, async (rest) => {
      const settled = await finished(rest)
      const report = await this.status(rest)
      if (report.status === status) return settled ? { done: report } : { last: status }
      if (ENDED.includes(report.status ?? '')) {
        const words = [report['error-desc'], this.stderr.trim()].filter(Boolean).join('; ')
        throw new Error(`the migration ended "${report.status}", expected "${status}": ${words}`)
      }
      return { last: report.status ?? 'none' }
    })
  }

  /** Waits until the source has begun that many passes over RAM (dirty-sync-count). */
  async waitForPasses(count: number, limits: QmpLimits = {}): Promise<void> {
    await this.#until(`pass ${count}`, limits, async (rest) => {
      const { ram, status = 'none' } = await this.status(rest)
      const passes = ram?.['dirty-sync-count'] ?? 0
      if (passes >= count) return { done: undefined }
      if (ENDED.includes(status)) {
        throw new Error(`the migration ended "${status}" in pass ${passes}, expected ${count}`)
      }
      return { last: passes }
    })
  }

  /** Waits until the machine has this run state. */
  async waitForRunState(state: string, limits: QmpLimits = {}): Promise<void> {
    await this.#until(`the run state "${state}"`, limits, async (rest) => {
      const last = await this.runState(rest)
      return last === state ? { done: undefined } : { last }
    })
  }

  /** Pages of its window the guest has written so far. */
  async counter(): Promise<number> {
    return this.#word(GUEST_COUNTER)
  }

  /** Dwords the guest found not as it had written them; must stay 0. */
  async errors(): Promise<number> {
    return this.#word(GUEST_ERRORS)
  }

  /** Waits until the guest has counted beyond this; the count then. */
  counterBeyond(count: number, limits: QmpLimits = {}): Promise<number> {
    return this.#until(`a count beyond ${count}`, limits, async () => {
      const last = await this.counter()
      return last > count ? { done: last } : { last }
    })
  }

  /** Waits until the guest has written its window twice: from then on all of it can be checked. */
  waitUntilCounting(limits: QmpLimits = {}): Promise<number> {
    const { windowBytes } = withDefaults(this.#qemu.options.guest ?? {})
    return this.counterBeyond((2 * windowBytes) / 4096, limits)
  }

  /** What is wrong with the stopped guest's window, as a sentence, or undefined. */
  async wrongInWindow(): Promise<string | undefined> {
    const { windowStart, windowBytes } = withDefaults(this.#qemu.options.guest ?? {})
    const window = await this.readGuest(windowStart, windowBytes)
    return wrongInWindow(window, await this.counter())
  }

  /** Guest-physical memory; see ram-compare.ts for what is no RAM in it. */
  async readGuest(address: number, bytes: number): Promise<Buffer> {
    const path = this.#qemu.folder.file(`save-${this.#saves++}`)
    try {
      await this.pmemsave(path, address, bytes)
      return await readFile(path)
    } finally {
      await rm(path, { force: true })
    }
  }

  /** Where the RAM block pc.ram lies in QEMU's address space: for /proc/<pid>/mem. */
  async ramHostAddress(): Promise<number> {
    const text = await this.qmp.hmp('gpa2hva 0')
    const found = /\(pc\.ram\) is (0x[0-9a-f]+)/.exec(text)
    if (!found) throw new Error(`gpa2hva 0 gave "${text.trim()}", expected an address in pc.ram`)
    return Number(found[1])
  }

  /** Writes guest-physical memory into a file. */
  async pmemsave(path: string, address: number, bytes: number): Promise<void> {
    await this.qmp.execute('pmemsave', { val: address, size: bytes, filename: path })
  }

  async stop(): Promise<void> {
    await this.qmp.execute('stop')
  }

  async cont(): Promise<void> {
    await this.qmp.execute('cont')
  }

  /** CPU time of this QEMU so far, all its threads, those that ended too; seconds. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ') // from field 3 on
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
  }

  /** Asks it to end, and waits for that. */
  async quit(): Promise<QemuExit> {
    await this.qmp.execute('quit').catch(() => {}) // it may be gone before it answered
    return this.exited
  }

  /** Ends it by force, as a crash would. */
  async kill(): Promise<QemuExit> {
    return this.#qemu.end()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#qemu.end()
  }

  async #word(address: number): Promise<number> {
    // "0000000000009000: 0x0000002a"
    const text = await this.qmp.hmp(`xp /1wx 0x${address.toString(16)}`)
    const found = /: 0x([0-9a-f]{8})/.exec(text)
    if (!found) throw new Error(`xp of 0x${address.toString(16)} gave "${text.trim()}"`)
    return Number.parseInt(found[1] as string, 16)
  }

  // Looks again after every event, and at an interval, because not every change has an event.
  async #until<T>(
    what: string,
    { timeLimitMs = WAIT_LIMIT_MS }: QmpLimits,
    look: (rest: QmpLimits) => Promise<{ done: T } | { last: string | number }>,
  ): Promise<T> {
    const deadline = performance.now() + timeLimitMs
    for (;;) {
      const rest = { timeLimitMs: Math.max(1, deadline - performance.now()) }
      const found = await look(rest)
      if ('done' in found) return found.done
      if (performance.now() > deadline) {
        const { name = 'QEMU' } = this.#qemu.options
        throw new Error(`${name} did not reach ${what} within ${timeLimitMs} ms: ${found.last}`)
      }
      await this.#nextEvent(LOOK_INTERVAL_MS)
    }
  }

  #nextEvent(limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const go = () => {
        clearTimeout(timer)
        stop()
        resolve()
      }
      const timer = setTimeout(go, limitMs)
      const stop = this.qmp.onEvent(go)
    })
  }
}
