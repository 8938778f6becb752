// Looks behind the library's back at the native objects it makes: for assertions on them, and to
// slow one of their methods down. The addon itself is not changed.

import { setImmediate as nextTurn } from 'node:timers/promises'
import { type NativeRamState, type NativeSendChannel, native } from '../../src/kit/native.ts'

/** Records every RamState that is made until it is disposed of. */
export class RamStates implements Disposable {
  readonly made: NativeRamState[] = []
  readonly #original = native().createRamState

  constructor() {
    native().createRamState = (...given) => {
      const made = this.#original(...given)
      if (!('detail' in made)) this.made.push(made)
      return made
    }
  }

  /** Pages that one more collect finds now: writes that no round has sent. */
  async unsentPages(): Promise<number> {
    const pages = await this.made.at(-1)?.collectIntoNext()
    if (typeof pages === 'number') return pages
    throw new Error(`no RAM state to ask: ${JSON.stringify(pages)}`)
  }

  [Symbol.dispose](): void {
    native().createRamState = this.#original
  }
}

/**
 * The method still does its work, but begins it only when every thread of the addon has ended and
 * many turns of the event loop have passed: whoever does not wait for it is over by then.
 */
export function delayed<T extends object>(
  target: T,
  method: keyof T & string,
  on: { begin: () => void; end: () => void },
): void {
  const original = target[method] as (...given: unknown[]) => Promise<unknown>
  Object.defineProperty(target, method, {
    value: async (...given: unknown[]) => {
      on.begin()
      for (let turn = 0; turn < 1e5 && threads() > 0; turn += 1) await nextTurn()
      for (let turn = 0; turn < 200; turn += 1) await nextTurn()
      const value = await original.apply(target, given)
      on.end()
      return value
    },
  })
}

const threads = (): number => native().census().threads ?? 0

/** Records every sending channel, with the cells of its counters, until it is disposed of. */
export class SendChannels implements Disposable {
  readonly made: { channel: NativeSendChannel; counters: Float64Array }[] = []
  readonly #original = native().startSendChannel

  constructor() {
    native().startSendChannel = (group, options) => {
      const channel = this.#original(group, options)
      if (!('detail' in channel)) this.made.push({ channel, counters: options.counters })
      return channel
    }
  }

  /** tcpi_bytes_acked, once it is `expected` or the test's time is over. */
  async ackedBytes(index: number, expected: number): Promise<number> {
    let acked = this.made[index]?.channel.ackedBytes() ?? Number.NaN
    for (let turn = 0; acked < expected && turn < 1e6; turn += 1) {
      await nextTurn()
      acked = this.made[index]?.channel.ackedBytes() ?? Number.NaN
    }
    return acked
  }

  [Symbol.dispose](): void {
    native().startSendChannel = this.#original
  }
}
