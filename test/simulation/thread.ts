// What the simulated threads of channels and listeners have in common: they speak by events, end by
// themselves or because they are told to, and are joined once they have ended.

import { EVENT } from '../../src/channel/native-events.ts'
import type { NativeError, NativeThread } from '../../src/kit/native.ts'
import type { World } from './world.ts'

export abstract class SimulatedThread implements NativeThread {
  readonly handle: number
  protected readonly world: World
  protected stopping = false
  #error: NativeError | null = null
  #ended = false
  #joined = false
  #stepping = false

  constructor(world: World) {
    this.world = world
    this.handle = world.newHandle()
    world.count('thread', 1)
  }

  /** Goes on with whatever there is to do; called again and again. */
  protected abstract step(): void
  /** Lets go of everything; called once, when the thread ends. */
  protected abstract release(): void

  get ended(): boolean {
    return this.#ended
  }

  /** It has something to do, and gets to it soon. */
  wake(): void {
    if (this.#stepping || this.#ended) return
    this.#stepping = true
    const { clock, lots } = this.world
    clock.after(lots.between(0, 0.1), () => {
      this.#stepping = false
      if (this.#ended) return
      if (this.stopping) this.end()
      else this.step()
    })
  }

  destroy(): void {
    if (this.stopping) return
    this.stopping = true
    this.wake()
  }

  join(): void {
    if (!this.#ended) this.world.violated('a thread is joined before it has ended')
    if (this.#joined) return
    this.#joined = true
    this.world.count('thread', -1)
  }

  error(): NativeError | null {
    return this.#error
  }

  protected emit(kind: number, value = 0, quietly = false): void {
    this.world.emit(this.handle, kind, value, quietly)
  }

  /** That it was told to stop is no error. */
  protected fail(code: NativeError['code'], detail: string, errno = 0): void {
    if (!this.stopping) {
      this.#error = { code, detail, errno, ...(errno === 0 ? {} : { syscall: 'simulated' }) }
      this.emit(EVENT.FAILED)
    }
    this.end()
  }

  protected end(): void {
    if (this.#ended) return
    this.#ended = true
    this.release()
    this.emit(EVENT.CLOSED)
  }
}
