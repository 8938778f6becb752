// Guest memory contents for tests: filled so that every page differs, compared page by page.

import { PAGE_SIZE_BYTES } from '../../src/kit/limits.ts'

const STEP_BYTES = 16 * 1024 * 1024

/** A seed for this run; print it, so that a failure can be repeated with MULTIFD_TEST_SEED. */
export function testSeed(): number {
  const given = process.env.MULTIFD_TEST_SEED
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given)
  console.log(`seed ${seed} (repeat with MULTIFD_TEST_SEED=${seed})`)
  return seed
}

/** A small generator (mulberry32): numbers in [0, 1). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Fills with bytes that differ from page to page; every 16th page stays as it is. */
export function fillPages(memory: Uint8Array, seed: number): void {
  const random = randomNumbers(seed)
  const noise = Uint8Array.from({ length: 64 * 1024 }, () => random() * 256)
  const view = new DataView(memory.buffer, memory.byteOffset, memory.length)
  for (let at = 0; at < memory.length; at += PAGE_SIZE_BYTES) {
    const page = at / PAGE_SIZE_BYTES
    if (page % 16 === 15) continue
    const from = (page * 64) % (noise.length - PAGE_SIZE_BYTES)
    memory.set(noise.subarray(from, from + PAGE_SIZE_BYTES), at)
    view.setUint32(at, page + seed)
  }
}

/** Every page is the same on both sides; throws naming the first that is not, and how many. */
export function expectSamePages(got: Uint8Array, expected: Uint8Array): void {
  if (got.length !== expected.length) {
    throw new Error(`${got.length} bytes, expected ${expected.length}`)
  }
  const different: number[] = []
  for (let at = 0; at < got.length; at += STEP_BYTES) {
    const end = Math.min(at + STEP_BYTES, got.length)
    if (Buffer.compare(got.subarray(at, end), expected.subarray(at, end)) === 0) continue
    for (let page = at; page < end; page += PAGE_SIZE_BYTES) {
      const here = got.subarray(page, page + PAGE_SIZE_BYTES)
      if (Buffer.compare(here, expected.subarray(page, page + PAGE_SIZE_BYTES)) !== 0) {
        different.push(page / PAGE_SIZE_BYTES)
      }
    }
  }
  if (different.length === 0) return
  throw new Error(`${different.length} pages differ: ${different.slice(0, 10).join(', ')} ...`)
}
