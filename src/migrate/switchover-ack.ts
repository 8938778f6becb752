// When the destination's devices could take the guest over. The answer goes out on the return path;
// until then the source does not stop its guest. It knows no wire.

import type { NamedHandler } from './named-handler.ts'

/**
 * Resolves when every device could take the switchover, at once where none asks to be waited for;
 * rejects with the error of the first that fails. There is no time limit: what a device waits for
 * may be megabytes that the source sends meanwhile.
 */
export async function switchoverAcknowledged(handlers: readonly NamedHandler[]): Promise<void> {
  await Promise.all(handlers.map((handler) => handler.switchoverAck()))
}
