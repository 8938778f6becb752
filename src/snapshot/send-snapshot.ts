// sendSnapshot: replays a stored VM into one or more QEMUs that wait for a migration. Nothing is
// sent to anybody before every file was compared with the manifest; then each destination goes its
// own way, and none waits for another.

import { parseUri } from '../channel/uri.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { requireString } from '../kit/options.ts'
import { requireCompression } from '../migrate/compression.ts'
import { ProgressStream } from '../migrate/progress-stream.ts'
import { asMultifdError } from '../migrate/teardown.ts'
import { Replay } from './replay.ts'
import {
  checkSendOptions,
  checkUris,
  type SendSettings,
  type SendSnapshotOptions,
} from './send-options.ts'
import type { SendOutcome, SendProgress } from './send-progress.ts'
import { loadSnapshot } from './stored-snapshot.ts'

/** Progress events while something is sent. */
const PROGRESS_INTERVAL_MS = 100

/** A snapshot on its way: iterate it for progress, await `result` for the end. */
export interface SnapshotSending extends AsyncIterable<SendProgress> {
  /**
   * How each destination ended, in the order of the URIs; one that fails does not stop the others.
   * Rejects with a MultifdError if nothing was sent to anybody, for instance because the snapshot
   * is not whole.
   */
  readonly result: Promise<SendOutcome[]>
}

/**
 * Sends a snapshot that `receiveSnapshot` stored to every URI (`tcp:HOST:PORT` or `unix:PATH`), at
 * each of which a QEMU of the same machine type, memory and devices waits (`-incoming defer`, then
 * `migrate-incoming`). Its guest goes on there from where it was stored; several destinations are
 * clones of each other. The snapshot is only read.
 *
 * ```ts
 * const sending = sendSnapshot('vm-1', 'tcp:127.0.0.1:4444', { multifdChannels: 4, paused: true })
 * const [outcome] = await sending.result
 * ```
 *
 * @throws TypeError or RangeError for a malformed URI, or an option that is unknown or out of range
 */
export function sendSnapshot(
  directory: string,
  uris: string | readonly string[],
  options: SendSnapshotOptions = {},
): SnapshotSending {
  requireString('the directory of the snapshot', directory)
  const list = checkUris(uris)
  for (const uri of list) parseUri(uri)
  const sending = new Sending(directory, list, checkSendOptions(options))
  sending.start()
  return sending
}

class Sending implements SnapshotSending {
  readonly #directory: string
  readonly #uris: readonly string[]
  readonly #settings: SendSettings
  readonly #progress = new ProgressStream<SendProgress>()
  readonly #startedMs = performance.now()
  readonly #result: Deferred<SendOutcome[]> = deferred()
  #replays: readonly Replay[] = []

  constructor(directory: string, uris: readonly string[], settings: SendSettings) {
    this.#directory = directory
    this.#uris = uris
    this.#settings = settings
  }

  get result(): Promise<SendOutcome[]> {
    return this.#result.promise
  }
  [Symbol.asyncIterator](): AsyncIterator<SendProgress, void, void> {
    return this.#progress[Symbol.asyncIterator]()
  }

  start(): void {
    this.#run().then(this.#result.resolve, this.#result.reject)
    const end = (): void => this.#progress.end(this.#result.promise)
    this.#result.promise.then(end, end)
  }

  async #run(): Promise<SendOutcome[]> {
    const timer = setInterval(() => this.#report(), PROGRESS_INTERVAL_MS)
    try {
      // Before anybody is connected: a QEMU that loses its source ends.
      requireCompression(this.#settings.compression)
      const snapshot = await loadSnapshot(this.#directory, this.#settings)
      if (this.#settings.signal?.aborted) throw aborted(this.#settings.signal)
      this.#replays = this.#uris.map((uri) => new Replay(snapshot, this.#settings, uri))
      return await Promise.all(this.#replays.map((replay) => replay.run()))
    } catch (thrown) {
      throw asMultifdError(thrown)
    } finally {
      clearInterval(timer)
      this.#report()
    }
  }

  #report(): void {
    if (!this.#progress.watched) return
    this.#progress.push({
      status: this.#replays.length === 0 ? 'verifying' : 'sending',
      elapsedMs: performance.now() - this.#startedMs,
      destinations: this.#replays.map((replay) => replay.progress()),
    })
  }
}

function aborted(signal: AbortSignal): MultifdError {
  return new MultifdError('ERR_MULTIFD_ABORTED', 'sending was cancelled by its caller', {
    cause: signal.reason,
  })
}
