// The one page of guest memory through which host and firmware guest talk: the host writes the
// knobs, the guest the results. firmware.S has the same offsets. Nothing here keeps a view:
// WebAssembly memory grows while the guest runs, and every growth detaches the views taken before.
//
//   guest-physical 0x1000, little-endian     by     meaning
//   +0x00 u32 magic "MDFG"                   host   without it the firmware refuses to work
//   +0x04 u32 layout version, 1              host
//   +0x08 u32 working-set start, bytes       host   page-aligned, 1 MiB
//   +0x0C u32 working-set pages              host   fixed once the guest runs
//   +0x10 u32 pages per second               host   0 = flat out; the first pass ignores it
//   +0x14 u32 the same before throttling     host   for the host alone; travels to the destination
//   +0x18 u64 pages written                  guest  the initialising pass included
//   +0x20 u64 pages granted                  guest  by pacing; never less than paced pages written
//   +0x28 u32 generation                     guest  the pass being written; 1 initialises
//   +0x2C u32 errors                         guest  pages unlike the last generation left them
//   +0x30 u32 last bad page                  guest  index in the working set; 0xFFFFFFFF = none
//   +0x34 u32 heartbeat                      guest  timer interrupts, up to 1000 a second
//   +0x38 u32 flag errors                    guest  halts that changed EFLAGS
//   +0x3C u32 faults                         guest  processor exceptions; the guest halts for good
//   +0x40 u32 allowance, u32 remainder, u64 last time stamp: the guest's pacing state

export const CONTROL_PAGE_BYTES = 0x1000
export const WORKING_SET_START_BYTES = 0x100000
export const GUEST_PAGE_BYTES = 4096

const MAGIC = 0x4746444d
const LAYOUT_VERSION = 1
const NO_PAGE = 0xffffffff
const AT = {
  magic: 0x00,
  version: 0x04,
  workingSetStart: 0x08,
  workingSetPages: 0x0c,
  pagesPerSecond: 0x10,
  wantedPagesPerSecond: 0x14,
  pagesWritten: 0x18,
  pagesGranted: 0x20,
  generation: 0x28,
  errors: 0x2c,
  lastBadPage: 0x30,
  heartbeat: 0x34,
  flagErrors: 0x38,
  faults: 0x3c,
} as const

/** What the guest says about itself; all counters run over a migration. */
export type GuestStats = {
  /** Pages written since boot, the initialising pass included. */
  readonly pagesWritten: number
  /** Pages the guest's pacing has allowed itself to write. */
  readonly pagesGranted: number
  /**
   * The pass being written: 0 before boot, 1 while initialising; from 2 on every page is checked.
   */
  readonly generation: number
  /**
   * Everything the guest found wrong: bad pages, lost flags, processor exceptions. 0 is the only
   * good value.
   */
  readonly errors: number
  /** Index of the page found bad last, or undefined. */
  readonly lastBadPage: number | undefined
  /** Timer interrupts seen. */
  readonly heartbeat: number
  readonly workingSetPages: number
  /** Wanted rate before throttling, 0 = flat out. */
  readonly pagesPerSecond: number
}

/** Writes the knobs of a guest that has not started yet, and zeroes nothing else. */
export function writeControlPage(
  view: DataView,
  knobs: { workingSetPages: number; pagesPerSecond: number },
): void {
  view.setUint32(AT.magic, MAGIC, true)
  view.setUint32(AT.version, LAYOUT_VERSION, true)
  view.setUint32(AT.workingSetStart, WORKING_SET_START_BYTES, true)
  view.setUint32(AT.workingSetPages, knobs.workingSetPages, true)
  view.setUint32(AT.lastBadPage, NO_PAGE, true)
  writeWantedRate(view, knobs.pagesPerSecond)
  applyRate(view, 0)
}

/** Sets the wanted rate in pages per second, 0 = flat out. It takes effect with `applyRate`. */
export function writeWantedRate(view: DataView, pagesPerSecond: number): void {
  view.setUint32(AT.wantedPagesPerSecond, pagesPerSecond, true)
}

/** Gives the guest the wanted rate less the throttled share. Flat out stays flat out. */
export function applyRate(view: DataView, throttlePercent: number): void {
  const wanted = view.getUint32(AT.wantedPagesPerSecond, true)
  const left = Math.floor((wanted * (100 - throttlePercent)) / 100)
  view.setUint32(AT.pagesPerSecond, wanted === 0 ? 0 : Math.max(1, left), true)
}

/** Reads knobs and results. A page without the magic (not booted, or empty) reads as all zero. */
export function readControlPage(view: DataView): GuestStats {
  const word = (offset: number) => view.getUint32(offset, true)
  const wide = (offset: number) => Number(view.getBigUint64(offset, true))
  const lastBadPage = word(AT.lastBadPage)
  return {
    pagesWritten: wide(AT.pagesWritten),
    pagesGranted: wide(AT.pagesGranted),
    generation: word(AT.generation),
    errors: word(AT.errors) + word(AT.flagErrors) + word(AT.faults),
    lastBadPage: word(AT.magic) !== MAGIC || lastBadPage === NO_PAGE ? undefined : lastBadPage,
    heartbeat: word(AT.heartbeat),
    workingSetPages: word(AT.workingSetPages),
    pagesPerSecond: word(AT.wantedPagesPerSecond),
  }
}
