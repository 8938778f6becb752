// After a connection broke before the switchover: whether the migration may go on over another one,
// and the attempts to get it, with growing waits between them. It knows neither rounds nor guest.

import { MultifdError } from '../kit/errors.ts'
import type { SourceLink } from './source-link.ts'
import type { FirstError } from './teardown.ts'

/** The first wait between two attempts; each further one is twice as long, up to two seconds. */
const BACKOFF_FIRST_MS = 100
const BACKOFF_MAX_MS = 2000

/** What a path that breaks looks like; everything else would be the same over another one. */
const BREAKS = ['ERR_MULTIFD_PEER_CLOSED', 'ERR_MULTIFD_TIMEOUT']

/**
 * Of the errors that the kernel gives to a channel, those of the path. Guest memory that cannot be
 * read or written, or an address where nobody listens any more, is none.
 */
const PATH_ERRNOS = [
  ...['EAGAIN', 'ECONNABORTED', 'ECONNRESET', 'EHOSTDOWN', 'EHOSTUNREACH'],
  ...['ENETDOWN', 'ENETRESET', 'ENETUNREACH', 'EPIPE', 'ETIMEDOUT'],
]

/** Whether it is the path that broke. */
export function isBreak({ code, errno }: MultifdError): boolean {
  if (code === 'ERR_MULTIFD_CHANNEL') return errno !== undefined && PATH_ERRNOS.includes(errno)
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
      const late = performance.now() + waitMs > deadlineMs
      if (late || !isBreak(thrown)) throw noOther(broken, thrown)
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
