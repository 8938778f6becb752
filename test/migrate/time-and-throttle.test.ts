// What ends a migration that does not converge by itself: the guest is slowed down, or its time is
// over.

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Migration } from '../../src/index.ts'
import { begun, expectArrives, until } from '../support/controlled.ts'
import { emptyState } from '../support/idle-guest.ts'
import { failure } from '../support/migration.ts'
import { testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'

const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

const idle = { stop: () => {}, resume: () => {} }

describe('autoConverge', () => {
  const options = { autoConverge: true, maxBandwidthBytesPerSecond: 100e6, downtimeLimitMs: 1 }

  it('slows a guest down in steps, and lets it run at full speed when the migration fails', async () => {
    const percents: number[] = []
    const shown: (number | undefined)[] = []
    const running: { migration?: Migration } = {}
    const throttle = (percent: number): void => {
      percents.push(percent)
      shown.push(running.migration?.query()['cpu-throttle-percentage'])
      if (percent === 30) running.migration?.cancel()
    }
    const vmm = { ...idle, throttle }
    await using run = await begun({ seed, busy: () => true }, { ...options, vmm })
    running.migration = run.migration
    expect((await failure(run.migration.result)).code).toBe('ERR_MULTIFD_ABORTED')
    expect(percents).toEqual([20, 30, 0])
    expect(shown.slice(0, 2)).toEqual([20, 30])
    expect(run.calls).toEqual([])
    await failure(run.destination.completed)
  })

  it('that cannot be lifted does not keep the guest from running on', async () => {
    const devices = [{ ...emptyState, load: () => Promise.reject(new Error('no')) }]
    let slow = false
    const throttle = (percent: number): void => {
      if (percent === 0) throw new Error('stuck')
      slow = true
    }
    await using run = await begun(
      { seed, devices, busy: () => !slow },
      { ...options, devices: [emptyState], vmm: { ...idle, throttle } },
    )
    const error = await failure(run.migration.result)
    expect(error.message).toContain('lifting the throttle failed: stuck; before that: ')
    expect(run.calls).toEqual(['stop', 'resume'])
    await failure(run.destination.completed)
  })
})

describe('timeLimitMs', () => {
  const timeLimitMs = 300

  it('ends it, in the middle of a round, and the guest never stopped', async () => {
    const slow = { timeLimitMs, maxBandwidthBytesPerSecond: 10_000 }
    await using run = await begun({ seed }, slow)
    const error = await failure(run.migration.result)
    expect(error.code).toBe('ERR_MULTIFD_ABORTED')
    expect(error.message).toMatch(/the time limit of 300 ms has passed/)
    expect(run.calls).toEqual([])
    expect(run.statuses).toEqual(['setup', 'active', 'cancelling', 'cancelled'])
    await failure(run.destination.completed)
  })

  it('ends in a switchover where that was asked for', async () => {
    await using run = await begun(
      { seed, busy: () => true },
      { timeLimitMs, timeLimitEnd: 'switchover', downtimeLimitMs: 1 },
    )
    let decision = ''
    await until(run.migration, (event) => {
      decision = event.decision ?? ''
      return event.status === 'device' || event.status === 'completed'
    })
    expect(decision).toMatch(/^stopping the guest: the time limit of 300 ms has passed/)
    await expectArrives(run)
    expect(run.calls).toEqual(['stop'])
  })
})
