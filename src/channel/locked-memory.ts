// How much memory this process may pin for zero-copy sends: RLIMIT_MEMLOCK, unless CAP_IPC_LOCK
// lifts it (capabilities(7)). Read once per migration.

import { readFileSync } from 'node:fs'

const CAP_IPC_LOCK = 14n

/** Bytes; Infinity where no limit binds. */
export function lockedMemoryLimitBytes(): number {
  const capabilities = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))
  if (((BigInt(`0x${capabilities?.[1] ?? '0'}`) >> CAP_IPC_LOCK) & 1n) === 1n) {
    return Number.POSITIVE_INFINITY
  }
  const limit = /^Max locked memory\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]
  return limit === 'unlimited' ? Number.POSITIVE_INFINITY : Number(limit ?? 0)
}
