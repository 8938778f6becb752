// Names of v86 0.5.462 that its own type declarations do not cover, and the two operations that
// need most of them: saving and loading device state without guest memory. Another version of v86
// may differ here, and only here. The main loop and the clock are machine.ts's business.
import type { V86 } from 'v86'
import type { WasmMemory } from './wasm.ts'

/** A one-cell view of processor state in WebAssembly memory. */
type Cell = { [index: number]: number }

export type V86Cpu = {
  readonly wasm_memory: WasmMemory
  /** Guest memory; a Proxy, so only good for its address and its length. */
  readonly mem8: { readonly byteOffset: number; readonly length: number }
  readonly instruction_counter: Cell
  readonly devices: { readonly pci: V86Pci; readonly vga: V86Vga }
  last_result: Cell
  fpu_status_word: Cell
  mxcsr: Cell
  /**
   * Runs the guest for about a millisecond; returns the milliseconds until it wants to run again.
   */
  main_loop(): number
  pack_memory(): { packed_memory: Uint8Array; bitmap: { get_buffer(): ArrayBuffer } }
  unpack_memory(bitmap: unknown, packed: unknown): void
  update_state_flags(): void
  full_clear_tlb(): void
  jit_clear_cache(): void
}

type V86Pci = {
  readonly devices: ReadonlyArray<{ readonly pci_bars: readonly unknown[] } | undefined>
  readonly device_spaces: ReadonlyArray<Int32Array | undefined>
}

type V86Vga = {
  /** The display adapter's state, field by field; arrays are those it works with. */
  get_state(): unknown[]
}

/** Of that state: text and planes, the linear frame buffer, the pixels of the planes. */
const VIDEO_MEMORY_FIELDS = [6, 39, 61] as const

export type V86Core = {
  readonly cpu: V86Cpu
  run(): void
  do_tick(): void
  save_state(): ArrayBuffer
  restore_state(state: ArrayBuffer): void
}

/** The emulator's inner object; present once `emulator-loaded` was sent. */
export function coreOf(emulator: V86): V86Core {
  return (emulator as unknown as { v86: V86Core }).v86
}

/** The class that owns the static function through which v86's JavaScript devices read the time. */
export function clockOwnerOf(core: V86Core): { microtick: () => number } {
  return core.constructor as unknown as { microtick: () => number }
}

/**
 * Clears the base address registers that the IDE controller announces but does not have, as a BIOS
 * does when it looks for PCI devices. Our firmware does not look, and v86 cannot restore a state in
 * which they are set.
 */
export function clearAbsentBars(core: V86Core): void {
  const { devices, device_spaces } = core.cpu.devices.pci
  const firstBarWord = 4
  for (const [index, device] of devices.entries()) {
    const space = device_spaces[index]
    if (device === undefined || space === undefined) continue
    for (let bar = 0; bar < device.pci_bars.length; bar++) {
      if (device.pci_bars[bar] === undefined) space[firstBarWord + bar] = 0
    }
  }
}

/** The display adapter's memory as it lies there. Good until WebAssembly memory grows. */
export function videoMemoryOf({ cpu }: V86Core): Uint8Array[] {
  const state = cpu.devices.vga.get_state()
  return VIDEO_MEMORY_FIELDS.map((field) => {
    // One of them is a Proxy, which native code cannot read.
    const { buffer, byteOffset, length } = state[field] as Uint8Array<ArrayBuffer>
    return new Uint8Array(buffer, byteOffset, length)
  })
}

/** Saves everything but guest memory and video memory. The guest must be stopped. */
export function saveWithoutMemory(core: V86Core): ArrayBuffer {
  const { cpu } = core
  const pack = cpu.pack_memory
  const empty = {
    packed_memory: new Uint8Array(0),
    bitmap: { get_buffer: () => new ArrayBuffer(0) },
  }
  const { vga } = cpu.devices
  const whole = vga.get_state
  cpu.pack_memory = () => empty
  // Loading it, v86 copies what is there into the arrays that it has.
  vga.get_state = () => {
    const state = whole.call(vga)
    for (const field of VIDEO_MEMORY_FIELDS) state[field] = new Uint8Array(0)
    return state
  }
  try {
    return core.save_state()
  } finally {
    cpu.pack_memory = pack
    vga.get_state = whole
  }
}

/**
 * Loads what `saveWithoutMemory` gave. Guest memory must be complete, the guest stopped.
 *
 * v86's own restore replaces three views of processor state by the saved values instead of writing
 * these into WebAssembly memory, which gives the guest wrong EFLAGS. So the views are put back and
 * filled here, and what depends on them is computed again.
 */
export function loadWithoutMemory(core: V86Core, state: ArrayBuffer): void {
  const { cpu } = core
  const unpack = cpu.unpack_memory
  const views = [cpu.last_result, cpu.fpu_status_word, cpu.mxcsr] as const
  cpu.unpack_memory = () => {}
  let saved = views
  try {
    core.restore_state(state)
    saved = [cpu.last_result, cpu.fpu_status_word, cpu.mxcsr]
  } finally {
    cpu.unpack_memory = unpack
    ;[cpu.last_result, cpu.fpu_status_word, cpu.mxcsr] = views
  }
  for (const [index, view] of views.entries()) {
    const value = saved[index]?.[0]
    if (value !== undefined) view[0] = value
  }
  cpu.update_state_flags()
  cpu.full_clear_tlb()
  cpu.jit_clear_cache()
}
