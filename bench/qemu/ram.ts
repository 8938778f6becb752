// Guest RAM that one knows: files with known content, and the comparison of a received RAM block
// with what QEMU's pmemsave gives. It knows addresses and bytes, and starts nothing.
import { createCipheriv, createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'

const PAGE_BYTES = 4096

/**
 * Guest-physical addresses where a PC need not have RAM, though the block pc.ram has bytes there:
 * VGA memory or SMRAM, option ROMs and the BIOS. pmemsave gives what the guest would read. Measured
 * with QEMU 7.2.22, q35 without VGA, before the BIOS ran: from 0xa0000 the bytes of pc.ram, from
 * 0xc0000 on ROM. The BIOS changes that as it runs, so these 96 pages are left out of comparisons
 * by address. A backing file (QemuOptions.ram) is the block itself, and has no hole.
 *
 * Beyond RAM, and in the PCI hole below 4 GiB, pmemsave gives zeros and no error. q35 has RAM
 * without further holes up to 2 GiB; of 2.75 GiB or more, all but 2 GiB lies above 4 GiB.
 */
export const RAM_HOLE = { from: 0xa0000, to: 0x100000 }

/**
 * Fills a file with pages of known content that follows from the seed: in turn random, zero, text
 * (which compresses well) and random again.
 */
export function writeKnownRam(file: string, bytes: number, seed = 1): void {
  writeFileSync(file, knownRam(bytes, seed))
}

/** The content that writeKnownRam writes. */
export function knownRam(bytes: number, seed = 1): Buffer {
  const key = createHash('sha256').update(`known RAM ${seed}`).digest().subarray(0, 16)
  const ram = createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(bytes))
  for (let page = 0; page * PAGE_BYTES < bytes; page++) {
    const of = ram.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
    if (page % 4 === 1) of.fill(0)
    if (page % 4 === 2) of.fill(`page ${page} of the guest with seed ${seed}. `)
  }
  return ram
}

/**
 * Indexes of the pages that differ between two copies of the RAM below 4 GiB, the hole left out.
 * Throws when they differ in length.
 */
export function differingPages(a: Buffer, b: Buffer): number[] {
  if (a.length !== b.length) {
    throw new Error(`RAM of ${a.length} bytes compared with RAM of ${b.length} bytes`)
  }
  const differing: number[] = []
  for (let at = 0; at < a.length; at += PAGE_BYTES) {
    if (at >= RAM_HOLE.from && at < RAM_HOLE.to) continue
    const end = at + PAGE_BYTES
    if (a.compare(b, at, end, at, end) !== 0) differing.push(at / PAGE_BYTES)
  }
  return differing
}
