// The operator's word by signals, for a VMM that wants it so: those of `multifd relay`, which
// `multifd decide` sends. It knows no migration, only whom to tell. Nothing here is called unless
// the VMM asks for it: the library takes no signals by itself.

import type { Owner } from './ownership.ts'

/** What each signal says. */
export const OWNER_SIGNALS = { source: 'SIGTERM', destination: 'SIGUSR2' } as const

/** A migration, on either side, or a relay, in status `unknown`. */
export interface Undecided {
  decide(owner: Owner): void | Promise<void>
}

/**
 * Waits for SIGTERM ("the source has the guest") or SIGUSR2 ("the destination has it"), and passes
 * the word on. Call it in status `unknown`, and have both ways out printed first. Keeps the program
 * alive, as it holds the guest. What `decide` throws comes out here.
 */
export async function decideBySignals(side: Undecided): Promise<Owner> {
  const stayAlive = setInterval(() => {}, 2 ** 30) // a listener for signals alone keeps nothing
  const listeners: [NodeJS.Signals, () => void][] = []
  try {
    const owner = await new Promise<Owner>((resolve) => {
      for (const [name, signal] of Object.entries(OWNER_SIGNALS)) {
        const listener = (): void => resolve(name as Owner)
        listeners.push([signal, listener])
        process.on(signal, listener)
      }
    })
    await side.decide(owner)
    return owner
  } finally {
    clearInterval(stayAlive)
    for (const [signal, listener] of listeners) process.off(signal, listener)
  }
}
