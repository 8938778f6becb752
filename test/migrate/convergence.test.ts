// The decision between two rounds, case by case: what it is, and the words it comes with.

import { describe, expect, it } from 'vitest'
import { Convergence } from '../../src/migrate/convergence.ts'
import { type ConvergenceOptions, checkConvergence } from '../../src/migrate/convergence-options.ts'
import type { Decision, RoundBegun } from '../../src/migrate/decision.ts'
import { type GuestModel, migrate } from './guest-model.ts'

const MIB = 1024 * 1024
const GIB = 1024 * MIB

/** A migration whose rounds the test makes up; time passes only by them. */
class Rounds {
  readonly convergence: Convergence
  #nowMs = 5000
  #first = true

  constructor(options: ConvergenceOptions = {}) {
    this.convergence = new Convergence(checkConvergence(options, true))
  }

  /** The collect, so many milliseconds after the one before. */
  begin(dirtyBytes: number, intervalMs: number, more: Partial<RoundBegun> = {}): Decision {
    this.#nowMs += intervalMs
    const begun = {
      dirtyBytes,
      intervalMs: this.#first ? 0 : intervalMs,
      devicePendingBytes: 0,
      stopOnlyDeviceBytes: 0,
      loadTimeMs: 0,
      roundTripMs: 1,
      nowMs: this.#nowMs,
      switchoverAcked: true,
      ...more,
    }
    this.#first = false
    return this.convergence.roundBegun(begun)
  }

  sent(bytes: number, elapsedMs: number): void {
    this.convergence.roundSent({ bytes, elapsedMs })
  }

  /** Round 0: 1 GiB in a second. */
  roundZero(): this {
    this.begin(GIB, 0)
    this.sent(GIB, 1000)
    return this
  }
}

describe('round 0', () => {
  it('is always sent, whatever is in it', () => {
    const decision = new Rounds().begin(0, 0)
    expect(decision).toMatchObject({ kind: 'round', cause: 'first-round' })
    expect(decision.expectedDowntimeMs).toBe(1)
    expect(new Rounds().begin(GIB, 0)).toMatchObject({
      reason: 'round 0 sends all memory in use, 1.00 GiB',
      expectedDowntimeMs: Number.POSITIVE_INFINITY,
      bandwidthBytesPerSecond: undefined,
      dirtyBytesPerSecond: 0,
    })
  })

  it('says nothing about the downtime before it was sent', () => {
    const rounds = new Rounds()
    expect(rounds.convergence.expectedDowntimeMs(0)).toBe(Number.POSITIVE_INFINITY)
    rounds.begin(GIB, 0)
    expect(rounds.convergence.expectedDowntimeMs(0)).toBe(Number.POSITIVE_INFINITY)
    rounds.sent(GIB, 1000)
    expect(rounds.convergence.expectedDowntimeMs(512 * MIB)).toBe(501)
  })
})

describe('above the limit', () => {
  it('another round is sent, and what it will probably leave is said', () => {
    const decision = new Rounds({ downtimeLimitMs: 50 }).roundZero().begin(512 * MIB, 1000)
    expect(decision).toMatchObject({ kind: 'round', cause: 'above-limit', expectedDowntimeMs: 501 })
    expect(decision.expectedRemainingBytes).toBeCloseTo(256.5 * MIB, -6)
    expect(decision.dirtyBytesPerSecond).toBe(512 * MIB)
    expect(decision.reason).toBe(
      'one more round: with 512 MiB left at 1.00 GiB/s the stop would take 501 ms ' +
        '(1 ms for the round trip), above the limit of 50 ms; ' +
        'the guest writes 512 MiB/s, so that about 257 MiB will be left after it',
    )
  })

  it('device state and its loading count', () => {
    const rounds = new Rounds({ downtimeLimitMs: 300 }).roundZero()
    const devices = { devicePendingBytes: 64 * MIB, stopOnlyDeviceBytes: 64 * MIB, loadTimeMs: 200 }
    const decision = rounds.begin(4096, 1000, devices)
    expect(decision.cause).toBe('above-limit')
    expect(decision.expectedDowntimeMs).toBeCloseTo(326, 0)
    expect(decision.reason).toMatch(/\(200 ms of it to load devices, 1 ms for the round trip\)/)
  })

  it('a limit that was lowered a moment ago counts more than what was measured before', () => {
    const rounds = new Rounds().roundZero()
    const decision = rounds.begin(10 * MIB, 1000, { maxBandwidthBytesPerSecond: 10 * MIB })
    expect(decision).toMatchObject({ cause: 'above-limit', expectedDowntimeMs: 1001 })
  })
})

describe('within the limit', () => {
  it('the guest is stopped, when another round would save too little', () => {
    const decision = new Rounds().roundZero().begin(MIB, 1000)
    expect(decision).toMatchObject({ kind: 'switchover', cause: 'within-limit' })
    expect(decision.reason).toBe(
      'stopping the guest: with 1.00 MiB left at 1.00 GiB/s the stop would take 2 ms ' +
        '(1 ms for the round trip), within the limit of 300 ms, ' +
        'and another round would hardly shorten it',
    )
  })

  it('a round that clearly shortens the stop is sent first', () => {
    const rounds = new Rounds().roundZero()
    const decision = rounds.begin(128 * MIB, 1000)
    expect(decision).toMatchObject({ kind: 'round', cause: 'further-round' })
    expect(decision.reason).toMatch(
      /the stop would take 126 ms .* will probably bring that down to 17 ms/,
    )
    rounds.sent(128 * MIB, 125)
    expect(rounds.begin(16 * MIB, 126).cause).toBe('further-round')
    rounds.sent(16 * MIB, 16)
    expect(rounds.begin(2 * MIB, 17).cause).toBe('within-limit')
  })

  it('the guest is stopped when a further round did not hold what it promised', () => {
    const rounds = new Rounds().roundZero()
    expect(rounds.begin(64 * MIB, 1000).cause).toBe('further-round')
    rounds.sent(64 * MIB, 63)
    expect(rounds.begin(64 * MIB, 65).cause).toBe('within-limit')
  })

  it('a machine that was busy between two rounds does not end them', () => {
    const rounds = new Rounds().roundZero()
    expect(rounds.begin(128 * MIB, 1000).cause).toBe('further-round')
    rounds.sent(128 * MIB, 125)
    expect(rounds.begin(16 * MIB, 127).cause).toBe('further-round')
    rounds.sent(16 * MIB, 16)
    expect(rounds.begin(24 * MIB, 200).cause).toBe('further-round')
  })

  it('at most 8 further rounds are sent, even if each saves a third', () => {
    const rounds = new Rounds().roundZero()
    let intervalMs = 1000
    const causes = Array.from({ length: 9 }, (_, index) => {
      const bytes = 250 * MIB * 0.7 ** index
      const { cause } = rounds.begin(bytes, intervalMs)
      intervalMs = bytes / (GIB / 1000)
      rounds.sent(bytes, intervalMs)
      return cause
    })
    expect(causes).toEqual([...Array.from({ length: 8 }, () => 'further-round'), 'within-limit'])
  })

  it('a guest of 256 MiB that writes 100 MB/s stands still for 6 ms, not for 16', () => {
    const model: GuestModel = {
      memoryBytes: 256 * MIB,
      workingSetBytes: 64 * MIB,
      writtenBytesPerSecond: 100e6,
      bandwidthBytesPerSecond: 1.5e9,
      latencyMs: 1,
      roundTripMs: 1,
      heldUpMs: [],
      devicePendingBytes: 0,
      stopOnlyDeviceBytes: 3 * MIB,
      loadTimeMs: 1,
      ackedInRound: 0,
    }
    const { last, downtimeMs, decisions } = migrate(model, checkConvergence({}, false), () => false)
    expect(last.kind).toBe('switchover')
    expect(downtimeMs).toBeLessThan(6)
    expect(decisions.length).toBeLessThanOrEqual(4)
  })
})

describe('nothing dirty', () => {
  it('stops the guest whatever the limit, as no round could shorten the stop', () => {
    const rounds = new Rounds({ downtimeLimitMs: 0 }).roundZero()
    expect(rounds.begin(0, 1000, { loadTimeMs: 40 })).toMatchObject({
      kind: 'switchover',
      cause: 'nothing-dirty',
      expectedDowntimeMs: 41,
      reason: expect.stringMatching(/no page is left to send, .* \(40 ms of it to load devices/),
    })
  })

  it('is not true while a device has state to send', () => {
    const rounds = new Rounds({ downtimeLimitMs: 0 }).roundZero()
    expect(rounds.begin(0, 1000, { devicePendingBytes: 1 }).cause).toBe('above-limit')
  })
})

describe('a destination that has not agreed yet', () => {
  it.each([
    ['within the limit', 4096, {}],
    ['with nothing dirty', 0, {}],
    ['at the time limit', 512 * MIB, { timeLimitMs: 900, timeLimitEnd: 'switchover' as const }],
  ])('is waited for %s, and that is said', (_, dirtyBytes, options) => {
    const rounds = new Rounds(options).roundZero()
    const decision = rounds.begin(dirtyBytes, 1000, { switchoverAcked: false })
    expect(decision).toMatchObject({ kind: 'round', cause: 'awaiting-ack' })
    expect(decision.reason).toMatch(/the destination has not said yet that it could take the guest/)
    rounds.sent(dirtyBytes, 2)
    expect(rounds.begin(dirtyBytes, 2).kind).toBe('switchover')
  })
})

describe('a stall', () => {
  /** Rounds of the same size until one says something new. */
  const repeat = (rounds: Rounds, bytes: number, ms: number, count: number): Decision[] =>
    Array.from({ length: count }, () => {
      const decision = rounds.begin(bytes, ms)
      rounds.sent(bytes, ms)
      return decision
    })

  it('is reported after five rounds and a second without a fall, with what would help', () => {
    const rounds = new Rounds({ downtimeLimitMs: 100 }).roundZero()
    const decisions = repeat(rounds, 512 * MIB, 500, 7)
    expect(decisions.map(({ cause }) => cause)).toEqual([
      ...Array.from({ length: 5 }, () => 'above-limit'),
      'stalled',
      'stalled',
    ])
    expect(decisions[4]?.advice).toBeUndefined()
    expect(decisions[5]).toMatchObject({
      kind: 'round',
      reason:
        'stalled, one more round: with 512 MiB left at 1.00 GiB/s the stop would take 501 ms ' +
        '(1 ms for the round trip), above the limit of 100 ms; ' +
        'the guest writes 1.00 GiB/s, and what is left no longer falls',
      advice:
        'slow the guest down (autoConverge); raise downtimeLimitMs to 501 or more; ' +
        'or give it more bandwidth than the 1.00 GiB/s that the guest writes',
    })
  })

  it('is none while short rounds have gone on for less than a second', () => {
    const rounds = new Rounds({ downtimeLimitMs: 0 }).roundZero()
    const decisions = repeat(rounds, 4096, 10, 90)
    expect(decisions.every(({ cause }) => cause === 'above-limit')).toBe(true)
    expect(repeat(rounds, 4096, 10, 20).at(-1)?.cause).toBe('stalled')
  })

  it('that only the limit can end says so', () => {
    const rounds = new Rounds({ downtimeLimitMs: 100 }).roundZero()
    let last: Decision | undefined
    for (let round = 0; round < 7; round += 1) {
      last = rounds.begin(MIB, 500, { loadTimeMs: 250 })
      rounds.sent(MIB, 1)
    }
    expect(last?.advice).toBe(
      'raise downtimeLimitMs to 252 or more: loading devices and the round trip alone take 251 ms',
    )
  })

  it('ends when the limit is raised, or at a minimum below the limit', () => {
    const raised = new Rounds({ downtimeLimitMs: 100 }).roundZero()
    expect(repeat(raised, 512 * MIB, 500, 7).at(-1)?.cause).toBe('stalled')
    raised.convergence.settings = checkConvergence({ downtimeLimitMs: 600 }, false)
    expect(raised.begin(512 * MIB, 500)).toMatchObject({
      kind: 'switchover',
      cause: 'local-minimum',
      reason: expect.stringMatching(/within the limit of 600 ms, and what is left no longer falls/),
    })

    const burst = new Rounds({ downtimeLimitMs: 100 }).roundZero()
    expect(repeat(burst, 512 * MIB, 500, 7).at(-1)?.cause).toBe('stalled')
    const quiet = [burst.begin(90 * MIB, 500)]
    burst.sent(90 * MIB, 90)
    quiet.push(burst.begin(80 * MIB, 90))
    expect(quiet.at(-1)?.kind).toBe('switchover')
  })

  it('waits for a known minimum that is clearly better than now', () => {
    const rounds = new Rounds({ downtimeLimitMs: 200 }).roundZero()
    const begin = (bytes: number) => {
      const decision = rounds.begin(bytes, 400, { switchoverAcked: false })
      rounds.sent(bytes, bytes / (GIB / 1000))
      return decision
    }
    begin(10 * MIB)
    for (let round = 0; round < 6; round += 1) begin(150 * MIB)
    expect(rounds.begin(150 * MIB, 400).cause).toBe('further-round')
    rounds.sent(150 * MIB, 150)
    expect(rounds.begin(10 * MIB, 400)).toMatchObject({ cause: 'local-minimum' })
  })
})

describe('zero pages', () => {
  it('that the guest dirties cost what they cost, not what a page of data would', () => {
    const rounds = new Rounds().roundZero()
    for (let round = 0; round < 3; round += 1) {
      rounds.begin(512 * MIB, 1000)
      rounds.sent(MIB, 50)
    }
    expect(rounds.convergence.expectedDowntimeMs(512 * MIB)).toBeLessThan(150)
  })

  it('of round 0 do not promise that the next round is fast', () => {
    const rounds = new Rounds()
    rounds.begin(64 * GIB, 0)
    rounds.sent(GIB, 1000)
    expect(rounds.begin(GIB, 1000).expectedDowntimeMs).toBe(1001)
  })
})

describe('auto-converge', () => {
  const throttles = (options: ConvergenceOptions, written: number[], ms = 1001) => {
    const rounds = new Rounds({ downtimeLimitMs: 0, autoConverge: true, ...options }).roundZero()
    return written.map((bytes) => {
      const { throttlePercent } = rounds.begin(bytes, ms)
      rounds.sent(100 * MIB, 100)
      return throttlePercent
    })
  }
  const high = Array.from({ length: 24 }, () => 100 * MIB)

  it('takes a step whenever two periods in a row were above the threshold, up to the maximum', () => {
    const steps = throttles({}, high).filter((step) => step !== undefined)
    expect(steps).toEqual([20, 30, 40, 50, 60, 70, 80, 90, 99])
    // The first period holds round 0, in which much was sent.
    expect(throttles({}, high.slice(0, 5))).toEqual([undefined, undefined, 20, undefined, 30])
  })

  it('compares over more than a second, however many rounds that takes', () => {
    const steps = throttles({}, high.slice(0, 12), 300)
    expect(steps.flatMap((step, index) => (step === undefined ? [] : [index]))).toEqual([11])
  })

  it('starts over when a period was below the threshold', () => {
    const pattern = Array.from({ length: 24 }, (_, index) => (index % 2 === 0 ? 40 : 100) * MIB)
    expect(throttles({ throttleTriggerThreshold: 50 }, pattern).every((s) => s === undefined)).toBe(
      true,
    )
    expect(throttles({ throttleTriggerThreshold: 30 }, pattern)).toContain(20)
  })

  it('takes the steps it was told to, and none when it is off', () => {
    const options = { cpuThrottleInitial: 5, cpuThrottleIncrement: 40, maxCpuThrottle: 50 }
    const steps = throttles(options, high).filter((step) => step !== undefined)
    expect(steps).toEqual([5, 45, 50])
    expect(throttles({ autoConverge: false }, high).every((step) => step === undefined)).toBe(true)
  })

  it('says how slow the guest is, and stalls only when it can be no slower', () => {
    const rounds = new Rounds({ downtimeLimitMs: 50, autoConverge: true, maxCpuThrottle: 30 })
    rounds.roundZero()
    const decisions = Array.from({ length: 12 }, () => {
      const decision = rounds.begin(100 * MIB, 1001)
      rounds.sent(100 * MIB, 100)
      return decision
    })
    const first = decisions.findIndex(({ cause }) => cause === 'stalled')
    expect(decisions[first - 5]?.throttlePercent).toBe(30)
    expect(decisions[first]?.reason).toMatch(/no longer falls; it is slowed down by 30 %$/)
    expect(decisions[first]?.advice).toMatch(/^the guest is slowed down by 30 % already; raise/)
  })
})

describe('the time limit', () => {
  it('calls the migration off, also in the middle of a round', () => {
    const rounds = new Rounds({ timeLimitMs: 2000 }).roundZero()
    expect(rounds.convergence.overdue(6999)).toBeUndefined()
    expect(rounds.convergence.overdue(7000)).toMatchObject({ kind: 'cancel', cause: 'time-limit' })
    expect(rounds.begin(0, 1999).kind).toBe('switchover')
    expect(rounds.begin(512 * MIB, 1)).toMatchObject({
      kind: 'cancel',
      reason: expect.stringMatching(
        /^giving up: the time limit of 2000 ms has passed after 2000 ms; with 512 MiB left/,
      ),
    })
  })

  it('stops the guest above the limit where that was chosen, but not in the middle of a round', () => {
    const options = { timeLimitMs: 2000, timeLimitEnd: 'switchover' as const, downtimeLimitMs: 10 }
    const rounds = new Rounds(options).roundZero()
    expect(rounds.convergence.overdue(9000)).toBeUndefined()
    expect(rounds.begin(512 * MIB, 2001)).toMatchObject({
      kind: 'switchover',
      cause: 'time-limit',
      expectedDowntimeMs: 501,
    })
  })
})
