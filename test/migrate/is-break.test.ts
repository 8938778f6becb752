// What is worth another connection: only what another one may mend.

import { expect, it } from 'vitest'
import { type ErrorCode, MultifdError } from '../../src/kit/errors.ts'
import { isBreak } from '../../src/migrate/reconnect.ts'

const cases: [boolean, ErrorCode, string | undefined][] = [
  [true, 'ERR_MULTIFD_PEER_CLOSED', 'ECONNRESET'],
  [true, 'ERR_MULTIFD_TIMEOUT', undefined],
  [true, 'ERR_MULTIFD_CHANNEL', 'ETIMEDOUT'],
  [true, 'ERR_MULTIFD_CHANNEL', 'EHOSTUNREACH'],
  [false, 'ERR_MULTIFD_CHANNEL', 'ECONNREFUSED'],
  // A guest memory whose file system is full would be as full for the next connection.
  [false, 'ERR_MULTIFD_CHANNEL', 'EFAULT'],
  [false, 'ERR_MULTIFD_CHANNEL', 'ENOSPC'],
  [false, 'ERR_MULTIFD_CHANNEL', undefined],
  [false, 'ERR_MULTIFD_PROTOCOL', undefined],
  [false, 'ERR_MULTIFD_VMM', undefined],
]
it.each(cases)('%s: %s %s', (expected, code, errno) => {
  const details = errno === undefined ? {} : { errno }
  expect(isBreak(new MultifdError(code, 'it broke', details))).toBe(expected)
})
