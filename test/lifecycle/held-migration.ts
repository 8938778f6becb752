// A migration that can be held still in the middle, on either side, so that a test can look at what
// every call does in every state.

import { MigrationDestination } from '../../src/destination.ts'
import type { DirtyLog } from '../../src/guest/dirty-tracker.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { deferred } from '../../src/kit/deferred.ts'
import { type Migration, MigrationSource } from '../../src/source.ts'

export const BLOCK = 'guest.ram'
export const BYTES = 256 * 1024
/** Of a guest that is not held, but large enough to end in the middle of it. */
export const MIDFLIGHT_BYTES = 32 * 1024 * 1024

/** Guest memory with something in it. */
export function guestMemory(): GuestMemory {
  const memory = GuestMemory.openMemfd(BLOCK, BYTES)
  memory.view(BLOCK).fill(0x61, 0, 5 * 4096)
  return memory
}

export class HeldMigration {
  readonly memory: GuestMemory
  readonly received: GuestMemory
  readonly source: MigrationSource
  readonly destination: MigrationDestination
  readonly migration: Migration
  /** 1 while the guest runs at the source. */
  running = 1
  readonly #stopping = deferred()
  readonly #goOn = deferred()

  private constructor(
    memory: GuestMemory,
    received: GuestMemory,
    destination: MigrationDestination,
    log: DirtyLog | undefined,
  ) {
    this.memory = memory
    this.received = received
    this.destination = destination
    this.source = new MigrationSource({
      memory,
      vmm: { stop: () => this.#stop(), resume: () => this.#resume() },
      ...(log === undefined ? {} : { dirty: log }),
    })
    this.migration = this.source.migrate(destination.uri)
    this.migration.result.catch(() => {})
  }

  /**
   * Starts one, and returns when the source is stopping its guest: both sides are in the middle.
   */
  static async begin(memory: GuestMemory, log?: DirtyLog): Promise<HeldMigration> {
    const received = GuestMemory.openMemfd(BLOCK, BYTES)
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: received })
    const held = new HeldMigration(memory, received, destination, log)
    await held.#stopping.promise
    return held
  }

  /** The source's stop returns: the rest takes its course. */
  goOn(): void {
    this.#goOn.resolve()
  }

  /** How both sides ended: a code, or `completed`. */
  async ends(): Promise<{ source: string; destination: string }> {
    this.goOn()
    const [source, destination] = await Promise.all([
      endOf(this.migration.result),
      endOf(this.destination.completed),
    ])
    return { source, destination }
  }

  /** Gives everything back but the memory of the source, which is the caller's. */
  async close(): Promise<void> {
    await this.ends()
    await this.destination.close()
    await this.received.close()
  }

  async #stop(): Promise<void> {
    this.running -= 1
    this.#stopping.resolve()
    await this.#goOn.promise
  }

  #resume(): void {
    this.running += 1
  }
}

/** The code of a rejection, or the status of a result. */
export async function endOf(outcome: Promise<{ status: string }>): Promise<string> {
  try {
    return (await outcome).status
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
}

/** What a call does: its code or its error's name if it throws or rejects, else `allowed`. */
export async function verdict(call: () => unknown): Promise<string> {
  try {
    await call()
    return 'allowed'
  } catch (error) {
    return (error as { code?: string }).code ?? (error as Error).name
  }
}
