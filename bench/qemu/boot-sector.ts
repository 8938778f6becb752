// The guest of boot-sector.S, from the host's side: a disk image with its knobs set, and what its
// memory must look like at a given count. It knows nothing of QEMU's processes or migrations.
import { BOOT_SECTOR_BASE64 } from './boot-sector-image.ts'

/** Physical addresses, little-endian 32-bit words; see boot-sector.S. */
export const GUEST_COUNTER = 0x9000
export const GUEST_ERRORS = 0x9004
export const GUEST_BAD_ADDRESS = 0x9008
export const GUEST_STARTED = 0x900c
export const GUEST_MAGIC = 0x4746444d

const PAGE_BYTES = 4096
const GENERATION_FACTOR = 0x9e3779b1
const DWORD_FACTOR = 0x85ebca6b
const KNOBS = 0x1a0
const WINDOW_LOWEST = 0x100000
// SeaBIOS 1.16 does not read a disk of a single sector ("could not read the boot disk").
const DISK_BYTES = 1 << 20

export interface GuestKnobs {
  /** Physical address of the rewritten window, a multiple of 4096; 0x100000 unless given. */
  readonly windowStart?: number
  /**
   * Size of the window, a multiple of 4096; 512 KiB unless given. The last MiB below the end of
   * RAM belongs to the BIOS.
   */
  readonly windowBytes?: number
  /** Empty turns of a loop after each page, which slow the guest down; 0 unless given. */
  readonly idleTurns?: number
}

/** A disk that a PC boots the guest from. Throws a RangeError on knobs the guest cannot use. */
export function guestDisk(knobs: GuestKnobs = {}): Buffer {
  const { windowStart, windowBytes, idleTurns } = withDefaults(knobs)
  const disk = Buffer.alloc(DISK_BYTES)
  Buffer.from(BOOT_SECTOR_BASE64, 'base64').copy(disk)
  disk.writeUInt32LE(windowStart, KNOBS)
  disk.writeUInt32LE(windowBytes / PAGE_BYTES, KNOBS + 4)
  disk.writeUInt32LE(idleTurns, KNOBS + 8)
  return disk
}

export function withDefaults(knobs: GuestKnobs): Required<GuestKnobs> {
  const { windowStart = WINDOW_LOWEST, windowBytes = 0x80000, idleTurns = 0 } = knobs
  const aligned = windowStart % PAGE_BYTES === 0 && windowBytes % PAGE_BYTES === 0
  if (!aligned || windowStart < WINDOW_LOWEST || windowBytes < PAGE_BYTES) {
    throw new RangeError(
      `the guest's window is ${windowBytes} bytes at ${windowStart}, expected whole pages of ` +
        `${PAGE_BYTES} bytes, at least one, from ${WINDOW_LOWEST} on`,
    )
  }
  return { windowStart, windowBytes, idleTurns }
}

/**
 * Whether a copy of the window belongs to a copy of the counter, both of the same instant of a
 * stopped guest: what is wrong, as a sentence, or undefined. The guest must have written the whole
 * window at least once before.
 *
 * At count c the guest writes page c % pages of generation g = floor(c / pages) + 1: what is below
 * is of g, what is above of g - 1, and within that page there is one place where g ends.
 */
export function wrongInWindow(window: Buffer, counter: number): string | undefined {
  const pages = window.length / PAGE_BYTES
  if (!(counter >= pages)) return `the guest has written ${counter} pages of the first ${pages}`
  const generation = Math.floor(counter / pages) + 1
  const current = counter % pages
  let boundary = 0 // dwords of the current page that are of this generation
  for (let page = 0; page < pages; page++) {
    for (let dword = 0; dword < PAGE_BYTES / 4; dword++) {
      const index = page * (PAGE_BYTES / 4) + dword
      const found = window.readUInt32LE(index * 4)
      const ofThis = expected(generation, index)
      const ofLast = expected(generation - 1, index)
      const newer = page < current || (page === current && found === ofThis && boundary === dword)
      if (newer && page === current) boundary += 1
      if (found === (newer ? ofThis : ofLast)) continue
      const age = ageOf(found, index, generation)
      return (
        `page ${page}, dword ${dword} of the window holds ${hex(found)} (${age}), expected ` +
        `${hex(newer ? ofThis : ofLast)}: the counter is ${counter}, generation ${generation} ` +
        `is being written in page ${current}`
      )
    }
  }
  return undefined
}

function expected(generation: number, index: number): number {
  return (Math.imul(generation, GENERATION_FACTOR) + Math.imul(index, DWORD_FACTOR)) >>> 0
}

function ageOf(found: number, index: number, generation: number): string {
  for (let back = 1; back <= generation && back < 100_000; back++) {
    if (expected(generation - back, index) === found) return `of ${back} generations before`
  }
  return expected(generation, index) === found ? 'of this generation' : 'of no generation'
}

const hex = (value: number): string => `0x${value.toString(16).padStart(8, '0')}`
