// A virtual machine for the example: v86 with the firmware guest, and what a migration asks of a
// VMM: guest memory, device state, stop and resume with honest times, throttling. It knows nothing
// of the migration library.
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { V86 } from 'v86'
import {
  applyRate,
  CONTROL_PAGE_BYTES,
  GUEST_PAGE_BYTES,
  type GuestStats,
  readControlPage,
  WORKING_SET_START_BYTES,
  writeControlPage,
  writeWantedRate,
} from './control-page.ts'
import { firmwareImage } from './firmware.ts'
import { GuestClock, useClock } from './guest-clock.ts'
import {
  clearAbsentBars,
  clockOwnerOf,
  coreOf,
  loadWithoutMemory,
  saveWithoutMemory,
  type V86Core,
  videoMemoryOf,
} from './v86-internals.ts'
import { type WasmMemory, type WasmModule, wasm } from './wasm.ts'

const MIB = 1024 * 1024
// With what the adapter keeps beside it, 2.9 MB of video memory: a device whose state is worth
// sending over all channels.
const VGA_MEMORY_BYTES = 2 * MIB
const STATE_MAGIC = 0x44363856
const STATE_HEADER_BYTES = 16
const STATE_VERSION = 1

export type V86MachineOptions = {
  /** Guest memory, a multiple of 1 MiB. Default 64 MiB. */
  memorySizeBytes?: number
  /** Pages the guest rewrites, from 1 MiB upwards. Default a quarter of the memory. */
  workingSetBytes?: number
  /** Wanted rate, 0 to 2^32 - 1; 0 (default) = flat out. */
  pagesPerSecond?: number
  /**
   * True for a machine that waits for another one's memory and devices. Its own memory options but
   * the size are unused.
   */
  incoming?: boolean
  /** Milliseconds, never going back; a test gives its own. Default `performance.now`. */
  hostNow?: () => number
}

/**
 * Where guest memory lies. The WebAssembly memory grows and swaps its `buffer`; the address stays.
 */
export type V86GuestMemory = {
  readonly wasmMemory: WasmMemory
  readonly offsetBytes: number
  readonly sizeBytes: number
}

type State = 'new' | 'awaiting-devices' | 'running' | 'stopped' | 'destroyed'

/**
 * One v86 emulator with the firmware guest. All methods belong to the JS thread that created it.
 */
export class V86Machine {
  readonly guestMemory: V86GuestMemory
  /** Of all that `videoMemory` gives. */
  readonly videoMemoryBytes: number
  readonly #emulator: V86
  readonly #core: V86Core
  readonly #clock: GuestClock
  #state: State
  #throttlePercent = 0
  #owedIdleMs = 0
  #serialOutput = ''
  #lastInstructionAtMs: number | undefined
  #firstInstructionAtMs: number | undefined
  #onFirstInstruction: (atMs: number | undefined) => void = () => {}

  private constructor(emulator: V86, clock: GuestClock, state: State) {
    this.#emulator = emulator
    this.#core = coreOf(emulator)
    this.#clock = clock
    this.#state = state
    clearAbsentBars(this.#core)
    const { cpu } = this.#core
    this.guestMemory = {
      wasmMemory: cpu.wasm_memory,
      offsetBytes: cpu.mem8.byteOffset,
      sizeBytes: cpu.mem8.length,
    }
    this.videoMemoryBytes = videoMemoryOf(this.#core).reduce((sum, { length }) => sum + length, 0)
    emulator.add_listener('serial0-output-byte', (byte) => {
      this.#serialOutput += String.fromCharCode(byte)
    })
    const runGuest = cpu.main_loop.bind(cpu)
    cpu.main_loop = () => this.#turn(runGuest)
  }

  /** Builds the machine; no guest instruction has run when this resolves. */
  static async create(options: V86MachineOptions = {}): Promise<V86Machine> {
    const memorySizeBytes = options.memorySizeBytes ?? 64 * MIB
    const workingSetBytes = options.workingSetBytes ?? memorySizeBytes / 4
    const pagesPerSecond = options.pagesPerSecond ?? 0
    const incoming = options.incoming ?? false
    checkWhole('memorySizeBytes', memorySizeBytes, { min: 4 * MIB, max: 2048 * MIB, unit: MIB })
    checkRate(pagesPerSecond)
    if (!incoming) {
      const max = memorySizeBytes - WORKING_SET_START_BYTES
      checkWhole('workingSetBytes', workingSetBytes, {
        min: GUEST_PAGE_BYTES,
        max,
        unit: GUEST_PAGE_BYTES,
      })
    }
    const clock = new GuestClock(options.hostNow ?? (() => performance.now()))
    const emulator = await loadEmulator(memorySizeBytes, clock)
    const machine = new V86Machine(emulator, clock, incoming ? 'awaiting-devices' : 'new')
    // The code that loads devices takes several times as long when it runs for the first time, and
    // nobody waits for it yet.
    if (incoming) loadWithoutMemory(machine.#core, saveWithoutMemory(machine.#core))
    else {
      const workingSetPages = workingSetBytes / GUEST_PAGE_BYTES
      writeControlPage(machine.#controlPage(), { workingSetPages, pagesPerSecond })
    }
    return machine
  }

  /** Boots the guest. */
  start(): void {
    this.#expect('start', ['new'])
    this.#run()
  }

  /**
   * Stops the guest; no further guest instruction runs from the moment of the call. Does nothing
   * when it is not running. Until `resume` the machine does not write guest memory either.
   */
  async stop(): Promise<void> {
    if (this.#state !== 'running') return
    this.#state = 'stopped'
    const stopped = this.#emulator.stop()
    this.#clock.hold()
    // v86 would notice at its next turn only, which lies many milliseconds ahead when the guest
    // idles or is throttled; this turn runs no instruction, it only confirms the stop.
    this.#core.do_tick()
    this.#onFirstInstruction(undefined)
    this.#onFirstInstruction = () => {}
    await stopped
  }

  /**
   * Lets a stopped guest, or one whose devices were loaded, go on. Resolves with the time of the
   * first guest instruction (see `firstInstructionAtMs`), or with undefined if the guest is stopped
   * before it ran any.
   */
  resume(): Promise<number | undefined> {
    this.#expect('resume', ['stopped'])
    const first = new Promise<number | undefined>((resolve) => {
      this.#onFirstInstruction = resolve
    })
    this.#run()
    return first
  }

  /**
   * When the guest last executed an instruction: milliseconds of CLOCK_MONOTONIC, comparable
   * between the processes of one host. Undefined before the first. Never earlier than the
   * instruction itself.
   */
  get lastInstructionAtMs(): number | undefined {
    return this.#lastInstructionAtMs
  }

  /**
   * When the guest executed its first instruction since `start` or `resume`, on the same clock. A
   * guest that sleeps in HLT executes none until its timer fires. Undefined until then.
   */
  get firstInstructionAtMs(): number | undefined {
    return this.#firstInstructionAtMs
  }

  get running(): boolean {
    return this.#state === 'running'
  }

  /** Everything the guest wrote to its first serial port on this machine. */
  get serialOutput(): string {
    return this.#serialOutput
  }

  /**
   * The display adapter's memory, in place: good until the guest runs again. The guest draws
   * nothing; the host may.
   */
  videoMemory(): readonly Uint8Array[] {
    this.#expect('videoMemory', ['new', 'awaiting-devices', 'stopped'])
    return videoMemoryOf(this.#core)
  }

  /**
   * Saves all devices, the processor and the guest's clock, but no memory of guest or adapter. Only
   * when stopped.
   */
  saveDevices(): Uint8Array {
    this.#expect('saveDevices', ['stopped'])
    useClock(clockOwnerOf(this.#core), this.#clock)
    const state = saveWithoutMemory(this.#core)
    const bytes = new Uint8Array(STATE_HEADER_BYTES + state.byteLength)
    const header = new DataView(bytes.buffer)
    header.setUint32(0, STATE_MAGIC, true)
    header.setUint32(4, STATE_VERSION, true)
    header.setFloat64(8, this.#clock.now(), true)
    bytes.set(new Uint8Array(state), STATE_HEADER_BYTES)
    return bytes
  }

  /**
   * Loads what `saveDevices` gave on a machine of the same size. Guest memory must be complete
   * already.
   */
  loadDevices(bytes: Uint8Array): void {
    this.#expect('loadDevices', ['awaiting-devices', 'stopped'])
    if (bytes.length < STATE_HEADER_BYTES) {
      throw new Error(`device state has ${bytes.length} bytes, expected at least 16`)
    }
    const header = new DataView(bytes.buffer, bytes.byteOffset, STATE_HEADER_BYTES)
    const magic = header.getUint32(0, true)
    const version = header.getUint32(4, true)
    if (magic !== STATE_MAGIC || version !== STATE_VERSION) {
      throw new Error(
        `device state starts with magic 0x${magic.toString(16)}, version ${version}, expected ` +
          `0x${STATE_MAGIC.toString(16)}, version ${STATE_VERSION}: it was saved by something else`,
      )
    }
    this.#clock.hold(header.getFloat64(8, true))
    useClock(clockOwnerOf(this.#core), this.#clock)
    const state = new Uint8Array(bytes.subarray(STATE_HEADER_BYTES))
    loadWithoutMemory(this.#core, state.buffer)
    this.#state = 'stopped'
  }

  /**
   * Reads the guest's own counters out of its memory; all zero on a machine that still waits for
   * its memory.
   */
  readStats(): GuestStats {
    return readControlPage(this.#controlPage())
  }

  /** Sets the wanted rate, 0 = flat out. It is a write to guest memory, so not while stopped. */
  setPagesPerSecond(pagesPerSecond: number): void {
    this.#expect('setPagesPerSecond', ['new', 'running'])
    checkRate(pagesPerSecond)
    writeWantedRate(this.#controlPage(), pagesPerSecond)
    applyRate(this.#controlPage(), this.#throttlePercent)
  }

  /**
   * Takes the given share, 0 (none) to 99 percent, of its processor time from the guest, and of its
   * rate if it has one: a guest that mostly sleeps would not notice the first. Writes guest memory
   * only while running.
   */
  throttle(percent: number): void {
    checkWhole('percent', percent, { min: 0, max: 99, unit: 1 })
    this.#throttlePercent = percent
    this.#owedIdleMs = 0
    if (this.#state === 'running') applyRate(this.#controlPage(), percent)
  }

  /**
   * Stops the guest for good. Guest memory stays readable for as long as somebody holds
   * `guestMemory`.
   */
  async destroy(): Promise<void> {
    if (this.#state === 'destroyed') return
    await this.stop()
    this.#state = 'destroyed'
    await this.#emulator.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.destroy()
  }

  #run(): void {
    this.#state = 'running'
    this.#firstInstructionAtMs = undefined
    this.#owedIdleMs = 0
    // The rate in memory may still be reduced by a throttle of the machine the guest came from.
    applyRate(this.#controlPage(), this.#throttlePercent)
    this.#clock.release()
    this.#core.run()
  }

  /** One turn of v86's main loop. Returns the milliseconds until v86 shall call again. */
  #turn(runGuest: () => number): number {
    useClock(clockOwnerOf(this.#core), this.#clock)
    const { cpu } = this.#core
    const instructions = cpu.instruction_counter[0]
    const enteredAtMs = monotonicMs()
    const wantedMs = runGuest()
    const leftAtMs = monotonicMs()
    if (cpu.instruction_counter[0] !== instructions) {
      this.#lastInstructionAtMs = leftAtMs
      if (this.#firstInstructionAtMs === undefined) {
        this.#firstInstructionAtMs = enteredAtMs
        this.#onFirstInstruction(enteredAtMs)
      }
    }
    // v86 polls without a pause for delays below a millisecond: a sleeping guest would burn a
    // processor.
    const idleMs = wantedMs > 0 ? Math.max(1, wantedMs) : 0
    return Math.max(idleMs, this.#throttledMs(leftAtMs - enteredAtMs))
  }

  #throttledMs(ranMs: number): number {
    this.#owedIdleMs += (ranMs * this.#throttlePercent) / (100 - this.#throttlePercent)
    if (this.#owedIdleMs < 1) return 0
    const owedMs = this.#owedIdleMs
    this.#owedIdleMs = 0
    return owedMs
  }

  #controlPage(): DataView {
    const { wasmMemory, offsetBytes } = this.guestMemory
    return new DataView(wasmMemory.buffer, offsetBytes + CONTROL_PAGE_BYTES, GUEST_PAGE_BYTES)
  }

  #expect(operation: string, allowed: readonly State[]): void {
    if (allowed.includes(this.#state)) return
    throw new Error(
      `${operation}() was called on a machine that is ${this.#state}, ` +
        `expected ${allowed.join(' or ')}`,
    )
  }
}

let compiledV86: Promise<WasmModule> | undefined

async function compileV86(): Promise<WasmModule> {
  const path = fileURLToPath(new URL('./v86.wasm', import.meta.resolve('v86')))
  return wasm.compile(await readFile(path))
}

async function loadEmulator(memorySizeBytes: number, clock: GuestClock): Promise<V86> {
  compiledV86 ??= compileV86()
  const module = await compiledV86
  return new Promise((resolve, reject) => {
    const emulator = new V86({
      // Instantiated here because this is where v86's compiled half is given its clock.
      wasm_fn: async (imports) => {
        const env = { ...imports.env, microtick: () => clock.now() }
        const instance = await wasm.instantiate(module, { ...imports, env })
        return instance.exports
      },
      memory_size: memorySizeBytes,
      vga_memory_size: VGA_MEMORY_BYTES,
      bios: { buffer: firmwareImage() },
      autostart: false,
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
    })
    emulator.add_listener('emulator-loaded', () => resolve(emulator))
    emulator.add_listener('download-error', (error) => {
      reject(new Error(`v86 could not load ${error.file_name}`))
    })
  })
}

function checkRate(pagesPerSecond: number): void {
  checkWhole('pagesPerSecond', pagesPerSecond, { min: 0, max: 0xffffffff, unit: 1 })
}

function checkWhole(
  name: string,
  value: number,
  range: { min: number; max: number; unit: number },
): void {
  if (value >= range.min && value <= range.max && value % range.unit === 0) return
  throw new RangeError(
    `${name} is ${value}, expected a multiple of ${range.unit} from ${range.min} to ${range.max}`,
  )
}

/** CLOCK_MONOTONIC in milliseconds; exact to well below a microsecond for centuries of uptime. */
function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
