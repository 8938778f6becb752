// relay(): the public function, and what it returns.

import { formatUri, parseUri, resolveUri } from '../channel/uri.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { MigrationStatus } from '../migrate/status.ts'
import type { RelayProgress, RelayResult } from './progress.ts'
import { checkRelayOptions, type RelayOptions, type RelaySettings } from './relay-options.ts'
import { RelaySession } from './relay-session.ts'

/** A relay that listens or runs. Iterate it for progress; `result` says how it ends. */
export interface Relay extends AsyncIterable<RelayProgress> {
  /**
   * `unknown`: the destination has everything, did not say so, and `decide` or a late word of it
   * will end this; the source is held meanwhile.
   */
  readonly status: MigrationStatus
  /** Where to let the source migrate to: the port is known, and somebody listens. */
  readonly listening: Promise<string>
  /**
   * Resolves when the destination has the guest, and the source knows. Rejects with a MultifdError;
   * the guest then runs on at the source, unless the sentence says otherwise. Pending in status
   * `unknown`.
   */
  readonly result: Promise<RelayResult>
  /**
   * In status `unknown`: says who has the guest. `source` resumes it there; `destination` ends it
   * there. Look first: the wrong word makes two guests, or none.
   * @throws MultifdError ERR_MULTIFD_STATE in any other status.
   */
  decide(owner: 'source' | 'destination'): void
}

/**
 * Stands between a QEMU that migrates to `listenUri` and a QEMU that listens on `connectUri`, both
 * `tcp:HOST:PORT` or `unix:PATH`, and passes the guest on as it comes: nothing is stored. Numbers
 * of channels and compression of the two sides are independent; the machine types are the same.
 *
 * ```ts
 * const passing = relay('tcp:0.0.0.0:4444', 'tcp:10.0.0.2:4444', { allowPlaintext: true })
 * for await (const { status, receivedBytes } of passing) console.log({ status, receivedBytes })
 * await passing.result
 * ```
 * @throws TypeError or RangeError for bad options and URIs.
 */
export function relay(listenUri: string, connectUri: string, options: RelayOptions = {}): Relay {
  return new RunningRelay(parseUri(listenUri), parseUri(connectUri), checkRelayOptions(options))
}

type Uri = ReturnType<typeof parseUri>

class RunningRelay implements Relay {
  readonly result: Promise<RelayResult>
  readonly #listening: Deferred<string> = deferred()
  readonly #started: Promise<RelaySession>
  #session: RelaySession | undefined
  /** The status while there is no session, or of one that never was. */
  #unstarted: MigrationStatus = 'setup'

  constructor(from: Uri, to: Uri, settings: RelaySettings) {
    this.#started = this.#start(from, to, settings)
    this.result = this.#started.then((session) => this.#run(session))
    this.result.catch((error) => {
      this.#unstarted = 'failed'
      this.#listening.reject(error)
    })
  }

  get status(): MigrationStatus {
    return this.#session?.status ?? this.#unstarted
  }
  get listening(): Promise<string> {
    return this.#listening.promise
  }

  decide(owner: 'source' | 'destination'): void {
    if (this.#session === undefined) {
      throw new MultifdError('ERR_MULTIFD_STATE', 'the relay does not listen yet')
    }
    this.#session.decide(owner)
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<RelayProgress, void, void> {
    yield* (await this.#started).progress
  }

  async #start(from: Uri, to: Uri, settings: RelaySettings): Promise<RelaySession> {
    const target = await resolveUri(to, settings)
    this.#session = new RelaySession(settings, await resolveUri(from, settings), target)
    return this.#session
  }

  async #run(session: RelaySession): Promise<RelayResult> {
    const result = session.run()
    this.#listening.resolve(formatUri(session.endpoint))
    const over = (): void => session.progress.end(result)
    void result.then(over, over)
    return await result
  }
}
