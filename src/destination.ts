// MigrationDestination: the side that gets the guest. Checks what it is given and listens; what a
// migration is made of is wired together in migrate/incoming-session.ts.

import { formatUri, parseUri, resolveUri } from './channel/uri.ts'
import {
  checkDestinationOptions,
  type MigrationDestinationOptions,
} from './migrate/destination-options.ts'
import { IncomingSession } from './migrate/incoming-session.ts'
import type { Owner } from './migrate/ownership.ts'
import type { IncomingResult } from './migrate/progress.ts'
import type { MigrationStatus } from './migrate/status.ts'

/**
 * The side that gets the guest: takes one migration, then is over. To take another, or the next
 * attempt after a failure, listen again, with the same memory if you like.
 *
 * ```ts
 * await using destination = await MigrationDestination.listen('tcp:127.0.0.1:4444', { memory })
 * await destination.completed // the guest may run now, and not before
 * ```
 */
export class MigrationDestination implements AsyncDisposable {
  /** Where it listens, with the port the kernel chose for port 0. */
  readonly uri: string
  /**
   * Resolves when the source has given the guest up: only now may it run here. Rejects with a
   * MultifdError; then it must not run here.
   */
  readonly completed: Promise<IncomingResult>
  readonly #session: IncomingSession

  private constructor(session: IncomingSession) {
    this.#session = session
    this.uri = formatUri(session.endpoint)
    this.completed = session.run()
    this.completed.catch(() => {})
  }

  /**
   * Listens on `tcp:HOST:PORT` (port 0: any free one) or `unix:PATH` for one migration.
   * @throws TypeError or RangeError for bad options, MultifdError ERR_MULTIFD_CHANNEL if the
   * address is not to be had, ERR_MULTIFD_UNSUPPORTED beyond this machine without `allowPlaintext`.
   */
  static async listen(
    uri: string,
    options: MigrationDestinationOptions,
  ): Promise<MigrationDestination> {
    const settings = checkDestinationOptions(options)
    const endpoint = await resolveUri(parseUri(uri), settings)
    return new MigrationDestination(new IncomingSession(settings, endpoint))
  }

  get status(): MigrationStatus {
    return this.#session.status
  }

  /** Everything read so far, main channel included; bytes. */
  get receivedBytes(): number {
    return this.#session.receivedBytes
  }

  /**
   * In the status `unknown`: whose the guest is, after somebody has looked (docs/ownership.md).
   * After `destination` it may run here, and not before.
   * @throws MultifdError ERR_MULTIFD_STATE in every other status.
   */
  decide(owner: Owner): void {
    this.#session.decide(owner)
  }

  /** Stops listening and ends a migration that runs; resolves when everything is given back. */
  async close(): Promise<void> {
    this.#session.close()
    await this.completed.catch(() => {})
    await this.#session.released
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
