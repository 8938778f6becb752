// At the destination, beside a migration: looks who connects with another main channel, and keeps
// the source whose connection broke until the migration takes it up. A stranger is turned away, and
// costs the migration nothing.

import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { trace } from '../kit/trace.ts'
import type { DestinationLink } from './destination-link.ts'
import { asMultifdError, type FirstError } from './teardown.ts'

/** Newcomers that have not said yet who they are; more are turned away unheard. */
const NEWCOMERS_MAX = 8

export class SourceReturn {
  readonly #handshakeTimeoutMs: number
  readonly #newcomers = new Set<DestinationLink>()
  #returned: DestinationLink | undefined
  #came: Deferred<void> = deferred()

  constructor(options: { handshakeTimeoutMs: number }) {
    this.#handshakeTimeoutMs = options.handshakeTimeoutMs
  }

  /**
   * Another main channel. True: it is the source of the migration named `token`, and `take` will
   * give its connection.
   */
  async newcomer(link: DestinationLink, token: string | undefined): Promise<boolean> {
    const timer = setTimeout(
      () => link.first.set(new MultifdError('ERR_MULTIFD_TIMEOUT', 'it did not say who it is')),
      this.#handshakeTimeoutMs,
    )
    try {
      if (this.#newcomers.size === NEWCOMERS_MAX) throw otherMigration()
      this.#newcomers.add(link)
      const own = await link.readConfiguration()
      if (token === undefined || !own.resuming || own.resume !== token) throw otherMigration()
    } catch (thrown) {
      const { code, message } = asMultifdError(thrown)
      trace('multifd:error', () => ({ side: 'destination', code, message }))
      link.wire.refuse()
      await this.#close(link)
      return false
    } finally {
      clearTimeout(timer)
      this.#newcomers.delete(link)
    }
    // It gave up the one before.
    if (this.#returned !== undefined) void this.#close(this.#returned)
    this.#returned = link
    this.#came.resolve()
    return true
  }

  /**
   * The connection that broke with `broken` is replaced.
   * @throws `broken`, with the reason, when the source gives up or does not come in time.
   */
  async take(parts: {
    broken: MultifdError
    /** Resolves when the source says that it gave up; never where it cannot say anything. */
    cancelled: Promise<void>
    deadlineMs: number
    migrationFailed: FirstError
  }): Promise<DestinationLink> {
    const { broken, cancelled, deadlineMs, migrationFailed } = parts
    const { promise: late, resolve } = deferred()
    const timer = setTimeout(resolve, Math.max(0, deadlineMs - performance.now()))
    const givenUp = (why: string) => (): never => {
      throw new MultifdError(broken.code, `${broken.message}; ${why}`, { cause: broken })
    }
    try {
      await migrationFailed.unless(
        Promise.race([
          this.#came.promise,
          late.then(givenUp('the source did not connect again (reconnectTimeoutMs)')),
          cancelled.then(givenUp('the source gave up')),
        ]),
      )
    } finally {
      clearTimeout(timer)
    }
    const link = this.#returned
    if (link === undefined) throw broken
    this.#returned = undefined
    this.#came = deferred()
    return link
  }

  /** Nobody is expected any more. */
  async close(): Promise<void> {
    const over = new MultifdError('ERR_MULTIFD_CLOSED', 'nobody is expected any more')
    for (const link of this.#newcomers) link.first.set(over)
    const links = [...this.#newcomers, ...(this.#returned === undefined ? [] : [this.#returned])]
    this.#returned = undefined
    await Promise.all(links.map((link) => this.#close(link)))
  }

  async #close(link: DestinationLink): Promise<void> {
    await link.destroy()
    await link.wire.close()
  }
}

export function otherMigration(): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_HANDSHAKE',
    'a source goes on with a migration that this destination does not have: it began with another ' +
      'destination, or this one gave it up',
  )
}
