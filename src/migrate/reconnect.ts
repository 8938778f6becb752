// After a connection broke before the switchover: whether the migration may go on over another one,
// and the attempts to get it, with growing waits between them. It knows neither rounds nor guest.

import { MultifdError } from '../kit/errors.ts'
import type { SourceLink } from './source-link.ts'
import type { FirstError } from './teardown.ts'

/** The first wait between two attempts; each further one is twice as long, up to two seconds. */
const BACKOFF_FIRST_MS = 100
const BACKOFF_MAX_MS = 2000

/** What a path that breaks looks like; everything else would be the same over another one. */
const BREAKS = ['ERR_MULTIFD_PEER_CLOSED', 'ERR_MULTIFD_TIMEOUT', 'ERR_MULTIFD_CHANNEL']

/** Nobody listens there any more: the destination is gone, and what it had with it. */
const GONE = ['ECONNREFUSED', 'ENOENT']

/** Whether it is the path that broke. */
export function isBreak({ code }: MultifdError): boolean {
  return BREAKS.includes(code)
}

/** Whether `error` is what the connection failed with, and the peer would take another one. */
export function mayReconnect(link: SourceLink, error: MultifdError): boolean {
  return link.first.error === error && isBreak(error) && link.wire.answers.peerResumes
}

/**
 * Opens another connection within `timeoutMs`.
 * @throws the error that broke the last one, with why there is no other.
 */
export async function reconnect(parts: {
  broken: MultifdError
  timeoutMs: number
  migrationFailed: FirstError
  open: () => Promise<SourceLink>
}): Promise<SourceLink> {
  const { broken, timeoutMs, migrationFailed, open } = parts
  const deadlineMs = performance.now() + timeoutMs
  for (let waitMs = BACKOFF_FIRST_MS; ; waitMs = Math.min(2 * waitMs, BACKOFF_MAX_MS)) {
    try {
      return await open()
    } catch (thrown) {
      if (migrationFailed.error !== undefined) throw migrationFailed.error
      if (!(thrown instanceof MultifdError)) throw thrown
      if (GONE.includes(thrown.errno ?? '') || !isBreak(thrown)) {
        throw noOther(broken, thrown)
      }
      if (performance.now() + waitMs > deadlineMs) throw noOther(broken, thrown)
    }
    await migrationFailed.sleep(waitMs)
  }
}

function noOther(broken: MultifdError, last: MultifdError): MultifdError {
  return new MultifdError(
    broken.code,
    `${broken.message}; it could not be reached again (${last.message})`,
    { cause: broken },
  )
}
