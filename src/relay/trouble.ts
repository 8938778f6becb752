// What a relay says when it fails as a whole: the sentences, with what the operator has to do.

import { MultifdError } from '../kit/errors.ts'
import { inWords } from '../snapshot/qemu-commands.ts'
import { multifdCommands } from './qemu-setup.ts'
import { type RelaySettings, sidesOf } from './relay-options.ts'

export function aborted(cause: unknown): MultifdError {
  return new MultifdError('ERR_MULTIFD_ABORTED', 'the relay was ended by its caller', { cause })
}

/** Nothing moved; the other side's settings are the usual reason. */
export function stalled(side: 'source' | 'destination', settings: RelaySettings): MultifdError {
  const doing = side === 'source' ? 'sent' : 'read'
  const commands = inWords(multifdCommands(sidesOf(settings)[side]))
  return new MultifdError(
    'ERR_MULTIFD_TIMEOUT',
    `the ${side} ${doing} nothing for ${settings.peerTimeoutMs} ms (peerTimeoutMs): it is stopped, or ` +
      `was set up otherwise. What is expected there: ${commands}`,
  )
}

/** The reason in status `unknown`. */
export function unknownOwner(what: string): string {
  return (
    `${what}, after it was sent everything: the guest may run there. The source is held: its guest ` +
    'stands still. Look at the destination first: if the guest runs there, tell the relay so; if it ' +
    'does not, and never will, let the source resume'
  )
}

export function toldByOperator(): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_STATE',
    'the destination did not say that it has the guest, and the operator let the source resume',
  )
}

/** Neither end can be asked any more. */
export function sourceLost(what: string): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_STATE',
    `${what}; and the source is gone, too: look on both sides which of them runs the guest`,
  )
}
