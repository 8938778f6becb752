// receiveSnapshot: a QEMU guest migrates into a directory. The public face of receiving; the work
// is receive-session.ts's.

import { formatUri, parseUri, resolveUri } from '../channel/uri.ts'
import { native } from '../kit/native.ts'
import { checkReceiveOptions, type ReceiveSnapshotOptions } from './receive-options.ts'
import { ReceiveSession } from './receive-session.ts'
import type { ReceptionProgress, ReceptionResult, ReceptionStatus } from './reception.ts'
import { type Durability, kernelDurability, SnapshotDirectory } from './snapshot-directory.ts'

/** A reception that listens or runs: iterate it for progress, await `result` for the end. */
export interface Reception extends AsyncIterable<ReceptionProgress>, AsyncDisposable {
  /** Where it listens, with the port the kernel chose for port 0. */
  readonly uri: string
  /**
   * Resolves when the snapshot is whole, confirmed to the source and hashed. Rejects with a
   * MultifdError; there is no snapshot then, and the guest is the source's, unless the sentence
   * says that it is stored.
   */
  readonly result: Promise<ReceptionResult>
  readonly status: ReceptionStatus
  /** Stops listening, or refuses the migration that runs; resolves when all is given back. */
  close(): Promise<void>
}

/**
 * Listens on `tcp:HOST:PORT` (port 0: any free one) or `unix:PATH` for one QEMU, and stores its
 * guest. Only when everything is durable is the source told that it may give its guest up.
 *
 * ```ts
 * const reception = await receiveSnapshot('tcp:127.0.0.1:4444', { directory: 'vm1' })
 * const { manifest } = await reception.result
 * ```
 * @throws TypeError or RangeError for bad options; MultifdError ERR_MULTIFD_SNAPSHOT if the
 * directory is not empty or cannot be made, ERR_MULTIFD_CHANNEL if the address is not to be had,
 * ERR_MULTIFD_UNSUPPORTED beyond this machine without `allowPlaintext`.
 */
export async function receiveSnapshot(
  uri: string,
  options: ReceiveSnapshotOptions,
): Promise<Reception> {
  return await receiveDurably(uri, options, kernelDurability)
}

/** @internal With another idea of durability, for tests of the order. */
export async function receiveDurably(
  uri: string,
  options: ReceiveSnapshotOptions,
  durability: Durability,
): Promise<Reception> {
  const settings = checkReceiveOptions(options)
  const endpoint = await resolveUri(parseUri(uri), settings)
  native() // what is missing is said before a directory is made
  const directory = await SnapshotDirectory.create(settings.directory, durability)
  try {
    return startReception(new ReceiveSession(settings, endpoint, directory))
  } catch (error) {
    await directory.remove()
    throw error
  }
}

function startReception(session: ReceiveSession): Reception {
  const result = session.run()
  // Behind the last event, which is pushed before the result settles.
  const end = (): void => session.progress.end(result)
  result.then(end, end)
  const close = async (): Promise<void> => {
    session.close()
    await result.catch(() => {})
  }
  return {
    uri: formatUri(session.connections.endpoint),
    result,
    get status() {
      return session.status
    },
    close,
    [Symbol.asyncDispose]: close,
    [Symbol.asyncIterator]: () => session.progress[Symbol.asyncIterator](),
  }
}
