// The status machine: which status may follow which, exhaustively.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { describe, expect, it } from 'vitest'
import { type MigrationStatus, StatusMachine } from '../../src/migrate/status.ts'

/** The shortest way to each status. */
const WAYS: Record<MigrationStatus, MigrationStatus[]> = {
  none: [],
  setup: ['setup'],
  active: ['setup', 'active'],
  reconnecting: ['setup', 'active', 'reconnecting'],
  'pre-switchover': ['setup', 'active', 'pre-switchover'],
  device: ['setup', 'active', 'device'],
  completed: ['setup', 'active', 'device', 'completed'],
  unknown: ['setup', 'active', 'device', 'unknown'],
  failed: ['setup', 'failed'],
  cancelling: ['setup', 'cancelling'],
  cancelled: ['setup', 'cancelling', 'cancelled'],
}
const ALL = Object.keys(WAYS) as MigrationStatus[]
const FOLLOWERS: Record<MigrationStatus, MigrationStatus[]> = {
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
  unknown: ['completed', 'failed'],
}

function at(status: MigrationStatus): StatusMachine {
  const machine = new StatusMachine('source')
  for (const step of WAYS[status]) machine.enter(step)
  return machine
}

describe('StatusMachine', () => {
  for (const from of ALL) {
    it(`from ${from} enters ${FOLLOWERS[from].join(', ') || 'nothing'}, and nothing else`, () => {
      for (const to of ALL) {
        const machine = at(from)
        if (FOLLOWERS[from].includes(to)) {
          machine.enter(to)
          expect(machine.status).toBe(to)
        } else {
          expect(() => machine.enter(to)).toThrow(`source: ${from} -> ${to} is not allowed`)
          expect(machine.status).toBe(from)
        }
      }
    })
  }

  it('is over where nothing follows', () => {
    const over = ALL.filter((status) => at(status).over)
    expect(over.sort()).toEqual(['cancelled', 'completed', 'failed', 'unknown'])
  })

  it('publishes every transition', () => {
    const seen: unknown[] = []
    const listener = (payload: unknown): void => void seen.push(payload)
    subscribe('multifd:state', listener)
    at('failed')
    unsubscribe('multifd:state', listener)
    expect(seen).toEqual([
      { side: 'source', from: 'none', to: 'setup' },
      { side: 'source', from: 'setup', to: 'failed' },
    ])
  })
})
