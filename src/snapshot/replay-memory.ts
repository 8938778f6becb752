// The RAM of a snapshot as the channels of one destination send it: its files mapped read-only, the
// book of a single round over them, and which of its pages are zero. Every destination has its own;
// the pages in the kernel's cache are the same.

import { join } from 'node:path'
import { DirtyLog, openRamState, type TrackerChoice } from '../guest/dirty-tracker.ts'
import { GuestMemory } from '../guest/guest-memory.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { checked, type NativeSendGroup, native } from '../kit/native.ts'
import { type Extent, extentsOf, extentTargetBytes } from '../schedule/round-plan.ts'
import type { StoredSnapshot } from './stored-snapshot.ts'

export class ReplayMemory {
  readonly memory: GuestMemory
  readonly tracker: TrackerChoice
  /** What the channels share; undefined without channels. */
  readonly group: NativeSendGroup | undefined
  readonly #log: DirtyLog
  #populatedPages = 0
  /** Native work on the memory: it cannot be called off, only waited for. */
  #work: Promise<unknown> = Promise.resolve()

  private constructor(memory: GuestMemory, channels: number) {
    this.memory = memory
    this.#log = new DirtyLog(memory) // nobody writes: nothing has to watch
    this.tracker = openRamState(memory, this.#log)
    if (channels === 0) return
    const options = { zeroPages: 'main' } as const
    const group = native().createSendGroup(this.tracker.ram, options)
    this.group = checked(group, 'preparing channels failed')
  }

  static open({ directory, manifest }: StoredSnapshot, channels: number): ReplayMemory {
    const blocks = manifest.ram.map(({ idstr, path, sizeBytes }) => {
      return { idstr, path: join(directory, path), sizeBytes, readOnly: true }
    })
    const memory = GuestMemory.of(blocks)
    try {
      return new ReplayMemory(memory, channels)
    } catch (error) {
      void memory.close()
      throw error
    }
  }

  /** Pages that are not holes; known when the round is planned. */
  get populatedPages(): number {
    return this.#populatedPages
  }

  /** Cuts everything that is populated into extents. */
  async plan(channels: number, bytesPerSecond: number): Promise<Extent[]> {
    const { ram } = this.tracker
    const about = 'planning what to send failed'
    checked(await this.during(ram.start()), about)
    this.#populatedPages = checked<number>(await this.during(ram.beginRound()), about)
    const target = extentTargetBytes({
      dirtyBytes: this.#populatedPages * PAGE_SIZE_BYTES,
      channels: Math.max(channels, 1),
      bytesPerSecond,
    })
    return extentsOf(checked<Float64Array>(await this.during(ram.plan(target)), about))
  }

  /** Work that `close` has to wait for. */
  during<T>(work: Promise<T>): Promise<T> {
    this.#work = Promise.allSettled([this.#work, work])
    return work
  }

  /** When no channel uses it any more. */
  async close(): Promise<void> {
    await this.#work
    this.group?.close()
    this.tracker.ram.close()
    this.#log.end()
    await this.memory.close()
  }
}
