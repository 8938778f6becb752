// The states a migration passes through, under QEMU's names (QAPI MigrationStatus), and which may
// follow which. Pure: it decides nothing, it refuses what must not happen.

import assert from 'node:assert/strict'
import { trace } from '../kit/trace.ts'

/**
 * Two are ours. `reconnecting`: the connection broke, the guest runs on at the source, and what was
 * acknowledged is kept on both sides until it is there again. `unknown`: the guest was given up,
 * but the destination's last word did not come; neither side may start it without the operator.
 */
export type MigrationStatus =
  | 'none'
  | 'setup'
  | 'active'
  | 'reconnecting'
  | 'pre-switchover'
  | 'device'
  | 'completed'
  | 'failed'
  | 'cancelling'
  | 'cancelled'
  | 'unknown'

const FOLLOWERS: Record<MigrationStatus, readonly MigrationStatus[]> = {
  none: ['setup'],
  setup: ['active', 'failed', 'cancelling'],
  active: ['reconnecting', 'pre-switchover', 'device', 'failed', 'cancelling'],
  reconnecting: ['active', 'failed', 'cancelling'],
  'pre-switchover': ['device', 'failed', 'cancelling'],
  device: ['completed', 'failed', 'cancelling', 'unknown'],
  cancelling: ['cancelled'],
  completed: [],
  failed: [],
  cancelled: [],
  // By the operator's word.
  unknown: ['completed', 'failed'],
}

export class StatusMachine {
  readonly #side: 'source' | 'destination'
  #status: MigrationStatus = 'none'

  constructor(side: 'source' | 'destination') {
    this.#side = side
  }

  get status(): MigrationStatus {
    return this.#status
  }

  /** A transition that is not allowed is our own mistake: an assertion. */
  enter(status: MigrationStatus): void {
    const from = this.#status
    assert(FOLLOWERS[from].includes(status), `${this.#side}: ${from} -> ${status} is not allowed`)
    this.#status = status
    trace('multifd:state', () => ({ side: this.#side, from, to: status }))
  }

  /** Nothing follows this status by itself. */
  get over(): boolean {
    return this.#status === 'unknown' || FOLLOWERS[this.#status].length === 0
  }
}
