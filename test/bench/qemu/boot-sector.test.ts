// The committed boot sector is what boot-sector.S assembles to, and the check of its window tells
// a good copy from an old or torn one. No QEMU is needed.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { guestDisk, wrongInWindow } from '../../../bench/qemu/boot-sector.ts'

const script = fileURLToPath(new URL('../../../bench/qemu/build-boot-sector.sh', import.meta.url))
const PAGE_BYTES = 4096
const PAGES = 4

/** Why the sector cannot be assembled here, or undefined. */
function assemblerMissing(): string | undefined {
  try {
    execFileSync('as', ['--32', '-o', '/dev/null', '/dev/null'], { stdio: 'pipe' })
    const emulations = execFileSync('ld', ['-V'], { encoding: 'utf8' })
    return emulations.includes('elf_i386') ? undefined : 'ld has no elf_i386 emulation'
  } catch {
    return 'as does not assemble for i386 (binutils missing?)'
  }
}

/** A window as the guest leaves it when it stops after `dwords` of the page it is writing. */
function windowAt(counter: number, dwords: number): Buffer {
  const window = Buffer.alloc(PAGES * PAGE_BYTES)
  const newer = (counter % PAGES) * (PAGE_BYTES / 4) + dwords
  const generation = Math.floor(counter / PAGES) + 1
  for (let i = 0; i < window.length / 4; i++) {
    const of = i < newer ? generation : generation - 1
    const value = Math.imul(of, 0x9e3779b1) + Math.imul(i, 0x85ebca6b)
    window.writeUInt32LE(value >>> 0, i * 4)
  }
  return window
}

describe('the boot sector', () => {
  it('is what boot-sector.S assembles to', (context) => {
    const missing = assemblerMissing()
    if (missing !== undefined && process.env.CI !== 'true') context.skip(missing)
    expect(missing).toBeUndefined()
    const folder = mkdtempSync(join(tmpdir(), 'multifd-boot-sector-'))
    try {
      const path = join(folder, 'boot-sector.bin')
      execFileSync('sh', [script, path], { stdio: 'pipe' })
      expect(readFileSync(path).equals(guestDisk().subarray(0, 512))).toBe(true)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('ends with what a BIOS looks for, and takes its knobs from the disk', () => {
    const disk = guestDisk({ windowStart: 0x200000, windowBytes: 0x300000, idleTurns: 7 })
    expect(disk.readUInt16LE(510)).toBe(0xaa55)
    const knobs = [0x1a0, 0x1a4, 0x1a8].map((at) => disk.readUInt32LE(at))
    expect(knobs).toEqual([0x200000, 0x300, 7])
  })

  it.each([
    { windowBytes: 4095 },
    { windowBytes: 0 },
    { windowStart: 0x100001 },
    { windowStart: 0x7000 },
  ])('refuses a window of %o', (knobs) => {
    expect(() => guestDisk(knobs)).toThrow(/window is .* expected whole pages of 4096 bytes/)
  })
})

describe('the check of its window', () => {
  it.each([
    [PAGES, 0],
    [PAGES, 1],
    [PAGES + 1, 517],
    [5 * PAGES - 1, 1024],
    [9 * PAGES, 1023],
  ])('takes a guest stopped at count %i, %i dwords into the page', (counter, dwords) => {
    expect(wrongInWindow(windowAt(counter, dwords), counter)).toBeUndefined()
  })

  it('sees a page of the generation before last, and says how old it is', () => {
    const window = windowAt(4 * PAGES + 2, 100)
    windowAt(2 * PAGES + 2, 100).copy(window, PAGE_BYTES, PAGE_BYTES, 2 * PAGE_BYTES)
    const wrong = wrongInWindow(window, 4 * PAGES + 2)
    expect(wrong).toMatch(/page 1, dword 0 of the window .*\(of 2 generations before\)/)
  })

  it('sees a page that is one generation behind', () => {
    const counter = 4 * PAGES + 2
    const window = windowAt(counter, 100)
    windowAt(counter - PAGES, 100).copy(window, 0, 0, PAGE_BYTES)
    expect(wrongInWindow(window, counter)).toMatch(/page 0, dword 0 .*\(of 1 generations before\)/)
  })

  it('sees a torn page', () => {
    const counter = 4 * PAGES + 2
    const window = windowAt(counter, 100)
    windowAt(counter + PAGES, 0).copy(window, 3 * PAGE_BYTES + 2048, 0, 4)
    expect(wrongInWindow(window, counter)).toMatch(/page 3, dword 512 .*\(of no generation\)/)
  })

  it('sees a page that mixes generations more than once', () => {
    const counter = 4 * PAGES + 2
    const window = windowAt(counter, 100)
    const newer = windowAt(counter, 1024)
    const at = 2 * PAGE_BYTES + 800
    newer.copy(window, at, at, at + 4)
    expect(wrongInWindow(window, counter)).toMatch(/page 2, dword 200 .*\(of this generation\)/)
  })

  it('sees a counter that is not of that instant', () => {
    expect(wrongInWindow(windowAt(4 * PAGES + 2, 100), 4 * PAGES)).toMatch(/the counter is 16/)
    expect(wrongInWindow(windowAt(4 * PAGES, 0), 4 * PAGES + 2)).toMatch(/the counter is 18/)
  })

  it('cannot check what was not written yet', () => {
    expect(wrongInWindow(windowAt(PAGES - 1, 0), PAGES - 1)).toMatch(/written 3 pages of the first/)
  })
})
