// What a source says about itself in its configuration section, and which sources a destination
// takes: those of this library that will commit, with pages that this build can read. Pure but for
// the question what the build has.

import { MultifdError } from '../kit/errors.ts'
import { isOwnMachine, type OwnCapabilities, parseOwnCapabilities } from '../wire/dialect.ts'
import type { Configuration } from '../wire/main-stream-events.ts'
import { requireCompression } from './compression.ts'

/** @throws MultifdError ERR_MULTIFD_UNSUPPORTED or ERR_MULTIFD_HANDSHAKE: it is not for us. */
export function checkOwnSource({ machineName, capabilities }: Configuration): OwnCapabilities {
  if (!isOwnMachine(machineName)) {
    throw new MultifdError(
      'ERR_MULTIFD_UNSUPPORTED',
      `the source is a QEMU machine "${machineName}", expected a MigrationSource of this library: a ` +
        'QEMU guest needs a QEMU destination',
    )
  }
  const own = parseOwnCapabilities(capabilities)
  if (!own.ok) throw own.error
  if (!own.value.commit) {
    throw new MultifdError(
      'ERR_MULTIFD_HANDSHAKE',
      'the source does not announce that it will commit, expected the capability "commit": without it ' +
        'nobody would know whose the guest is; run the same version on both ends',
    )
  }
  requireCompression(own.value.compression)
  return own.value
}
