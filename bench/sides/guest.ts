// The guest of the comparisons: RAM without a machine. Fills it as planned, different on every
// page, and hashes it afterwards. A memfd is filled and read through its descriptor, so that
// looking at a hole never allocates it.
import { createHash } from 'node:crypto'
import { fstatSync, openSync, readdirSync, readlinkSync, readSync, writeSync } from 'node:fs'
import type { GuestMemory } from '../../src/index.ts'
import { contentOf, isZeroPage } from './content.ts'
import type { GuestPlan } from './side-options.ts'

export const BLOCK_NAME = 'pc.ram'
const PAGE_BYTES = 4096
const TILE_BYTES = 32 * 1024 * 1024
const HASH_STEP_BYTES = 256 * 1024 * 1024

/** One populated stretch of guest RAM, bytes. */
export interface Run {
  readonly offset: number
  readonly length: number
}

/** Where the plan wants content: all of anonymous memory, evenly spread runs of a memfd. */
export function populatedRuns(plan: GuestPlan): Run[] {
  if (plan.kind === 'anonymous') return [{ offset: 0, length: plan.sizeBytes }]
  const { count, runBytes } = plan.runs
  const pages = Math.floor(plan.sizeBytes / PAGE_BYTES)
  return Array.from({ length: count }, (_, i) => ({
    offset: Math.floor((pages * i) / count) * PAGE_BYTES,
    length: runBytes,
  }))
}

/** Writes the source's content. For anonymous memory this is its pre-faulting too. */
export function populate(memory: GuestMemory, plan: GuestPlan): void {
  const { content = 'random', zeroPercent = 0 } = plan
  const tile = contentOf(content, Math.min(TILE_BYTES, plan.sizeBytes), zeroPercent)
  const stamps = new DataView(tile.buffer)
  const fd = plan.kind === 'memfd' ? openMemfdByName(plan.sizeBytes) : undefined
  const view = fd === undefined ? memory.view(BLOCK_NAME) : undefined
  for (const run of populatedRuns(plan)) {
    for (let done = 0; done < run.length; done += tile.length) {
      const at = run.offset + done
      const length = Math.min(tile.length, run.length - done)
      for (let page = 0; page < length; page += PAGE_BYTES) {
        if (!isZeroPage(page / PAGE_BYTES, zeroPercent)) stamps.setFloat64(page, at + page + 1)
      }
      const bytes = tile.subarray(0, length)
      if (fd === undefined) view?.set(bytes, at)
      else writeFully(fd, bytes, at)
    }
  }
}

/** Touches the destination's RAM by writing zeros, so that it is populated and still empty. */
export function prefault(memory: GuestMemory): void {
  memory.view(BLOCK_NAME).fill(0)
}

/** SHA-1 over the populated runs. */
export function checksum(memory: GuestMemory, plan: GuestPlan): string {
  const hash = createHash('sha1')
  if (plan.kind === 'anonymous') {
    const view = memory.view(BLOCK_NAME)
    for (let at = 0; at < view.length; at += HASH_STEP_BYTES) {
      hash.update(view.subarray(at, at + HASH_STEP_BYTES))
    }
    return hash.digest('hex')
  }
  const fd = openMemfdByName(plan.sizeBytes)
  for (const { offset, length } of populatedRuns(plan)) {
    const bytes = new Uint8Array(length)
    for (let done = 0; done < length; ) {
      done += readSync(fd, bytes, done, length - done, offset + done)
    }
    hash.update(bytes)
  }
  return hash.digest('hex')
}

/** Guest RAM the kernel holds pages for, bytes; for anonymous memory all of it was touched. */
export function residentBytes(plan: GuestPlan): number {
  if (plan.kind === 'anonymous') return plan.sizeBytes
  return fstatSync(openMemfdByName(plan.sizeBytes)).blocks * 512
}

// The library keeps its memfd to itself, and views end at 4 GiB in Node 20; the kernel lets a
// process open its own descriptors again.
function openMemfdByName(sizeBytes: number): number {
  for (const name of readdirSync('/proc/self/fd')) {
    const path = `/proc/self/fd/${name}`
    let target: string
    try {
      target = readlinkSync(path)
    } catch {
      continue // the descriptor readdir itself used
    }
    if (!target.startsWith('/memfd:')) continue
    const fd = openSync(path, 'r+')
    if (fstatSync(fd).size === sizeBytes) return fd
  }
  throw new Error(`found no memfd of ${sizeBytes} bytes among this process's descriptors`)
}

function writeFully(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done)
  }
}
