// The VMM's own dirty log, and discards: a guest written in JavaScript that marks what it writes,
// page by page and as a bitmap, and drops pages while it migrates.

import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { DirtyLog, GuestMemory, type MigrationSourceOptions, type Vmm } from '../../src/index.ts'
import { migrateOnce } from '../support/migration.ts'
import { RamStates } from '../support/native-hooks.ts'
import { expectSamePages, fillPages, randomNumbers, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { wasmMemory } from '../support/wasm-memory.ts'
import { WriterGuest } from '../support/writer.ts'

const MIB = 1024 * 1024
const PAGE = 4096
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** Runs `step` once per turn of the event loop while the guest runs. */
class SteppedVmm implements Vmm {
  steps = 0
  readonly #step: () => void
  #running = true
  #loop: Promise<void>

  constructor(step: () => void) {
    this.#step = step
    this.#loop = this.#run()
  }
  async stop(): Promise<void> {
    this.#running = false
    await this.#loop
  }
  resume(): void {
    this.#running = true
    this.#loop = this.#run()
  }
  async #run(): Promise<void> {
    while (this.#running) {
      this.#step()
      this.steps += 1
      await nextTurn()
    }
  }
}

describe('DirtyLog', () => {
  for (const way of ['mark', 'orBitmap'] as const) {
    it(`carries what the VMM writes and reports by ${way}`, async () => {
      await using from = GuestMemory.openMemfd('ram', 16 * MIB)
      await using to = GuestMemory.openMemfd('ram', 16 * MIB)
      const log = new DirtyLog(from)
      const view = from.view('ram')
      fillPages(view, seed)
      const random = randomNumbers(seed)
      const vmm = new SteppedVmm(() => {
        const offset = Math.floor(random() * (view.length - 8))
        const bytes = 1 + Math.floor(random() * 8) // may cross into the next page
        view.fill(random() * 256, offset, offset + bytes)
        if (way === 'mark') {
          log.mark('ram', offset, bytes)
          return
        }
        const first = Math.floor(offset / PAGE)
        const base = Math.max(0, Math.min(first - 3, view.length / PAGE - 16))
        const bitmap = new Uint8Array(2)
        for (const page of [first, Math.floor((offset + bytes - 1) / PAGE)]) {
          const bit = page - base
          bitmap[bit >> 3] = (bitmap[bit >> 3] as number) | (1 << (bit & 7))
        }
        log.orBitmap('ram', base * PAGE, bitmap)
      })
      let left: number | undefined
      using rams = new RamStates()
      const load = async (): Promise<void> => {
        left = await rams.unsentPages()
      }
      const devices = [{ idstr: 'last-look', save: () => new Uint8Array(0), load }]
      const { result } = await migrateOnce({
        from,
        to,
        vmm,
        source: { dirty: log, devices, maxBandwidthBytesPerSecond: 64 * MIB },
        destination: { devices },
      })
      expect(result.dirtyTracker).toBe('vmm')
      expect(vmm.steps).toBeGreaterThan(0)
      expect(left).toBe(0)
      expectSamePages(to.view('ram'), view)
    })
  }

  it('can be used for one migration after another, and costs nothing between them', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    const log = new DirtyLog(from)
    for (const value of [1, 2]) {
      from.view('ram').fill(value)
      log.mark('ram', 0, MIB)
      await migrateOnce({ from, to, source: { dirty: log } })
      expect(to.view('ram')[MIB - 1]).toBe(value)
    }
  })

  it('misses what is not marked: the test would notice', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    from.view('ram').fill(1)
    // The guest writes after round 0 was sent, in stop(), and says nothing.
    const vmm = { stop: () => void from.view('ram').fill(9, 0, PAGE), resume: () => {} }
    await migrateOnce({ from, to, vmm, source: { dirty: new DirtyLog(from) } })
    expect(() => expectSamePages(to.view('ram'), from.view('ram'))).toThrow('1 pages differ: 0')
  })

  it('refuses ranges outside the block and foreign memory, by name', async () => {
    await using memory = GuestMemory.allocate('ram', MIB)
    await using other = GuestMemory.allocate('ram', MIB)
    const log = new DirtyLog(memory)
    expect(() => log.mark('ram', MIB, 1)).toThrow(/sizeBytes must be .* from 0 to 0, got 1/)
    expect(() => log.mark('ram', -1, 1)).toThrow(RangeError)
    expect(() => log.mark('vga', 0, 1)).toThrow('there is no RAM block "vga"')
    expect(() => log.orBitmap('ram', 1, new Uint8Array(1))).toThrow('offsetBytes')
    expect(() => log.orBitmap('ram', 0, new Uint8Array(33))).toThrow('length of the bitmap')
    const run = migrateOnce({ from: other, to: memory, source: { dirty: log } })
    await expect(run).rejects.toThrow('another GuestMemory')
  })
})

describe('discard during a migration', () => {
  const kinds = {
    anonymous: () => GuestMemory.allocate('ram', 32 * MIB),
    'small pages': () => GuestMemory.allocate('ram', 32 * MIB, { hugePages: false }),
    memfd: () => GuestMemory.openMemfd('ram', 32 * MIB),
    wasm: () => {
      const range = { offsetBytes: 0, sizeBytes: 32 * MIB }
      return GuestMemory.fromWasm('ram', wasmMemory(32 * MIB), range)
    },
  }
  const trackers = ['userfaultfd', 'hash', 'vmm'] as const
  for (const [kind, make] of Object.entries(kinds)) {
    for (const tracker of trackers) {
      it(`reads as zero at the destination: ${kind}, ${tracker}`, async () => {
        await using from = make()
        await using to = make()
        const view = from.view('ram')
        fillPages(view, seed)
        // The lower half is the writer's; the VMM drops pages of the upper half. A writer without
        // a log of its own needs a tracker that sees it.
        const log = new DirtyLog(from)
        using guest =
          tracker === 'vmm' ? undefined : new WriterGuest(view.subarray(0, 16 * MIB), seed)
        guest?.confine(256)
        const dropped = new Set<number>()
        const random = randomNumbers(seed)
        const dirty: MigrationSourceOptions['dirty'] = tracker === 'vmm' ? log : tracker
        let events = 0
        const { result } = await migrateOnce({
          from,
          to,
          ...(guest === undefined ? {} : { vmm: guest }),
          source: { dirty, maxBandwidthBytesPerSecond: 100 * MIB, downtimeLimitMs: 50 },
          progress: ({ status }) => {
            events += 1
            if (status !== 'active') return
            for (let i = 0; i < 20; i += 1) {
              const page = 4096 + Math.floor(random() * 4090)
              from.discard('ram', page * PAGE, 2 * PAGE)
              dropped.add(page).add(page + 1)
            }
          },
        })
        expect(events).toBeGreaterThan(1)
        expect(result.zeroPages + result.normalPages).toBeGreaterThan(0)
        expect(dropped.size).toBeGreaterThan(0)
        const zero = new Uint8Array(PAGE)
        for (const page of dropped) {
          const got = to.view('ram').subarray(page * PAGE, (page + 1) * PAGE)
          expect(Buffer.compare(got, zero), `page ${page}`).toBe(0)
        }
        expectSamePages(to.view('ram'), view)
      })
    }
  }
})
