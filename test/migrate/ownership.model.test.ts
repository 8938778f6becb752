// Who owns the guest, checked exhaustively: two sides, what is between them and an operator, in
// every order, with every word lost, late or cut off and each side killed at every point. Then the
// same with a rule broken on purpose: the checks must find it, and say how it comes to that.

import { describe, expect, it } from 'vitest'
import {
  type DestinationEnd,
  type DestinationEvent,
  type DestinationState,
  nextOfDestination,
  nextOfSource,
  type SourceState,
} from '../../src/migrate/ownership.ts'
import { type Exploration, explore } from './ownership-explorer.ts'
import { type QemuRules, towardsQemu } from './ownership-qemu-world.ts'
import { ownEnds, type Rules } from './ownership-world.ts'

const OWN: Rules = {
  source: nextOfSource,
  destination: nextOfDestination,
  neverRuns: ({ alive, state }) => !alive || state === 'refused' || state === 'given',
}
const QEMU: QemuRules = {
  source: nextOfSource,
  neverRuns: ({ alive, state }) => !alive || state === 'failed',
}

/** The source's table with one entry changed. */
function sourceWith(state: SourceState, end: DestinationEnd, next: SourceState) {
  const source: typeof nextOfSource = (peer, from, event) =>
    from === state && event === end ? next : nextOfSource(peer, from, event)
  return { source }
}

/** The destination's. */
function destinationWith(state: DestinationState, event: DestinationEvent, next: DestinationState) {
  const destination: typeof nextOfDestination = (from, what) =>
    from === state && what === event ? next : nextOfDestination(from, what)
  return { destination }
}

/** All of it was gone through, and every rule holds. */
function expectSound(name: string, { states, steps, atRest, violation }: Exploration): void {
  console.log(`${name}: ${states} states, ${steps} steps, ${atRest} states at rest`)
  expect(violation).toBeUndefined()
  expect(states).toBeGreaterThan(500)
  expect(atRest).toBeGreaterThan(50)
}

/** The first line is the rule; then the steps, numbered, and the world they end in. */
function expectFound({ violation }: Exploration, rule: string, step: string): void {
  const [broken, ...trace] = (violation ?? 'nothing').split('\n')
  expect(broken).toContain(rule)
  expect(trace[0]).toMatch(/^ {2}1\. source /)
  expect(trace.join('\n')).toContain(step)
}

describe('between our own ends', () => {
  it('there are never two guests; where none runs, all say so and the operator has a way out', () => {
    expectSound('own ends', explore(ownEnds(OWN)))
  })

  const wrongRules: [string, Partial<Rules>, rule: string, step: string][] = [
    [
      'a source that resumes when the connection breaks behind the commit',
      sourceWith('handed-over', 'broken', 'kept'),
      'two guests run',
      'source reads reset',
    ],
    [
      'a source that resumes when nobody answers its commit',
      sourceWith('handed-over', 'silent', 'kept'),
      'two guests run',
      'source waits in vain',
    ],
    [
      'a source that does not resume when nobody says "ready"',
      sourceWith('stopped', 'silent', 'unknown'),
      'before the commit silent does not let the source resume',
      'source stops the guest',
    ],
    [
      'a source that takes an orderly close for the confirmation',
      sourceWith('handed-over', 'closed', 'given'),
      'gave the guest away for good, and nobody has it',
      'destination is killed, connections end in order',
    ],
    [
      'a destination that starts when it is ready',
      destinationWith('loading', 'loaded', 'taken'),
      'two guests run',
      'destination has loaded it',
    ],
    [
      'a destination that takes a commit it has told its operator not to wait for',
      {
        ...destinationWith('unknown', 'commit', 'taken'),
        neverRuns: (side) => OWN.neverRuns(side) || side.state === 'unknown',
      },
      'two guests run',
      'operator at the source decides: source',
    ],
    [
      'a destination that waits for a commit for ever',
      destinationWith('ready', 'failed', 'ready'),
      'no guest runs, and this side does not say so: destination',
      'says "ready"',
    ],
    [
      'an operator who looks whether it runs there, and not whether it ever will',
      { neverRuns: ({ alive, state }) => !alive || state !== 'taken' },
      'two guests run',
      'operator at the destination decides: destination',
    ],
    [
      'advice that leaves no way out',
      { neverRuns: () => false },
      'the operator has no way out',
      'source is killed',
    ],
  ]
  it.each(wrongRules)('the checks find %s', (_name, change, rule, step) => {
    expectFound(explore(ownEnds({ ...OWN, ...change })), rule, step)
  })
})

describe('towards a QEMU, which starts by itself', () => {
  it('there are never two guests; where none runs, the source says so and has a way out', () => {
    expectSound('towards QEMU', explore(towardsQemu(QEMU)))
  })

  const wrongRules: [string, Partial<QemuRules>, step: string][] = [
    ['a reset', sourceWith('handed-over', 'broken', 'kept'), 'source reads reset'],
    ['silence', sourceWith('handed-over', 'silent', 'kept'), 'source waits in vain'],
    ['nonsense', sourceWith('handed-over', 'garbled', 'kept'), 'source reads nonsense'],
    ['a cancel', sourceWith('handed-over', 'aborted', 'kept'), 'source is cancelled'],
    [
      'an operator who only looked whether it runs there now',
      { neverRuns: ({ alive, state }) => !alive || state !== 'running' },
      'operator at the source decides: source',
    ],
  ]
  it.each(wrongRules)('the checks find a source that resumes on %s', (_name, change, step) => {
    expectFound(explore(towardsQemu({ ...QEMU, ...change })), 'two guests run', step)
  })
})
