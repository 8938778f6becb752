// Which commands of the main stream are understood, and with how much data. A table and its errors;
// the bytes are read in main-stream-reader.ts and written in main-stream-writer.ts.

import type { ErrorCode } from '../kit/errors.ts'
import { hex } from './bytes.ts'
import {
  MIG_CMD_ENABLE_COLO,
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PACKAGED,
  MIG_CMD_PING,
  MIG_CMD_POSTCOPY_ADVISE,
  MIG_CMD_POSTCOPY_LISTEN,
  MIG_CMD_POSTCOPY_RAM_DISCARD,
  MIG_CMD_POSTCOPY_RESUME,
  MIG_CMD_POSTCOPY_RUN,
  MIG_CMD_RECV_BITMAP,
  MIG_CMD_SWITCHOVER_START,
} from './constants.ts'
import { OWN_COMMAND_CANCEL, OWN_COMMAND_COMMIT } from './dialect.ts'

/** Where in which stream a command came. */
export interface CommandPlace {
  /** The source is one of our own ends. */
  own: boolean
  stage: 'before-eof' | 'after-eof'
}

const DATA_BYTES = new Map([
  [MIG_CMD_OPEN_RETURN_PATH, 0],
  [MIG_CMD_PING, 4],
  [MIG_CMD_SWITCHOVER_START, 0],
  [OWN_COMMAND_COMMIT, 0],
  [OWN_COMMAND_CANCEL, 0],
])

// POSTCOPY_ADVISE is among them although it carries nothing: with it the RAM block list has another
// layout for blocks on huge pages, which cannot be told from the stream.
const POSTCOPY_COMMANDS = [
  MIG_CMD_POSTCOPY_ADVISE,
  MIG_CMD_POSTCOPY_LISTEN,
  MIG_CMD_POSTCOPY_RUN,
  MIG_CMD_POSTCOPY_RAM_DISCARD,
  MIG_CMD_PACKAGED,
  MIG_CMD_POSTCOPY_RESUME,
  MIG_CMD_RECV_BITMAP,
]

/** Why a command cannot be accepted there; undefined if it can. */
export function commandProblem(
  command: number,
  length: number,
  place: CommandPlace,
): { code: ErrorCode; text: string } | undefined {
  if (POSTCOPY_COMMANDS.includes(command)) {
    const text = `command ${command} belongs to post-copy, expected pre-copy; turn postcopy-ram off at the source`
    return { code: 'ERR_MULTIFD_UNSUPPORTED', text }
  }
  if (command === MIG_CMD_ENABLE_COLO) {
    const text =
      'the source enables COLO, expected a plain migration; turn x-colo off at the source'
    return { code: 'ERR_MULTIFD_UNSUPPORTED', text }
  }
  const expected = DATA_BYTES.get(command)
  const isOwn = command === OWN_COMMAND_COMMIT || command === OWN_COMMAND_CANCEL
  if (expected === undefined || (isOwn && !place.own)) {
    const text =
      `unknown command ${hex(command)} with ${length} bytes of data, expected OPEN_RETURN_PATH, PING ` +
      'or SWITCHOVER_START'
    return { code: 'ERR_MULTIFD_PROTOCOL', text }
  }
  if (length !== expected) {
    const text = `command ${command} has ${length} bytes of data, expected ${expected}`
    return { code: 'ERR_MULTIFD_PROTOCOL', text }
  }
  if (command === OWN_COMMAND_CANCEL) return undefined
  const isCommit = command === OWN_COMMAND_COMMIT
  if (isCommit !== (place.stage === 'after-eof')) {
    const when = isCommit ? 'only after EOF' : 'only before EOF'
    return {
      code: 'ERR_MULTIFD_PROTOCOL',
      text: `command ${hex(command)} is out of place, expected ${when}`,
    }
  }
  return undefined
}
