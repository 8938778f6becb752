// MigrationSource: the side that has the guest. Checks what it is given, and lets one migration at
// a time run; what a migration is made of is wired together in migrate/outgoing-session.ts.

import { parseUri, resolveUri } from './channel/uri.ts'
import { MultifdError } from './kit/errors.ts'
import { optionalSignal, refuseUnknown } from './kit/options.ts'
import { type Migration, OutgoingSession } from './migrate/outgoing-session.ts'
import {
  checkSourceOptions,
  type MigrationSourceOptions,
  type SourceSettings,
} from './migrate/source-options.ts'

export type { Migration }

/**
 * The side that has the guest. One migration at a time; after a failed or cancelled one the next
 * can start at once.
 *
 * ```ts
 * const source = new MigrationSource({ memory, vmm: { stop, resume } })
 * const migration = source.migrate('tcp:127.0.0.1:4444')
 * for await (const { round, remainingBytes } of migration) console.log(round, remainingBytes)
 * const { downtimeMs } = await migration.result
 * ```
 */
export class MigrationSource {
  readonly #settings: SourceSettings
  #running: OutgoingSession | undefined

  /** @throws TypeError or RangeError naming an option that is unknown or out of range. */
  constructor(options: MigrationSourceOptions) {
    this.#settings = checkSourceOptions(options)
  }

  /**
   * Starts to migrate to `uri`: `tcp:HOST:PORT` or `unix:PATH`, where a MigrationDestination
   * listens.
   * @param options.signal cancels; the guest then runs on here.
   * @throws TypeError for a malformed URI; MultifdError ERR_MULTIFD_STATE while a migration runs.
   */
  migrate(uri: string, options: { signal?: AbortSignal } = {}): Migration {
    refuseUnknown('migrate', options, ['signal'])
    const signal = optionalSignal(options.signal)
    const parsed = parseUri(uri)
    if (this.#running !== undefined) {
      throw new MultifdError('ERR_MULTIFD_STATE', 'a migration of this source is running already')
    }
    const session = new OutgoingSession(this.#settings, () => {
      this.#running = undefined
    })
    this.#running = session
    session.start(() => resolveUri(parsed, this.#settings), signal)
    return session
  }
}
