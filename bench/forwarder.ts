// A forwarder (sides/forwarder.ts) as a comparison holds it: a path on loopback that counts by the
// clock, and can be cut once.
import { Child } from './child.ts'
import { sideCommand } from './migration.ts'
import type { Forwarded, ForwarderOrder, ForwarderReady } from './sides/forwarder-lines.ts'

export class Forwarder implements AsyncDisposable {
  /** Where the source connects to. */
  readonly uri: string
  readonly #child: Child
  readonly #signal: AbortSignal

  private constructor(child: Child, uri: string, signal: AbortSignal) {
    this.#child = child
    this.uri = uri
    this.#signal = signal
  }

  static async start(order: ForwarderOrder, signal: AbortSignal): Promise<Forwarder> {
    const [file = '', ...args] = sideCommand('forwarder', order)
    const child = await Child.start('the forwarder', file, args, { signal })
    try {
      const { uri } = await child.expect<ForwarderReady>('ready', { signal })
      return new Forwarder(child, uri, signal)
    } catch (error) {
      await child[Symbol.asyncDispose]()
      throw error
    }
  }

  /** What it saw so far; it ends with that. */
  async report(): Promise<Forwarded> {
    this.#child.say('report')
    return await this.#child.expect<Forwarded>('done', { signal: this.#signal })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child[Symbol.asyncDispose]()
  }
}
