// Who has the guest: the verdict for every way a destination can end, and what the two sides'
// objects refuse. Every interleaving of both sides is in ownership.model.test.ts.

import { describe, expect, it } from 'vitest'
import { MultifdError } from '../../src/kit/errors.ts'
import {
  type DestinationEnd,
  DestinationOwnership,
  SourceOwnership,
  verdictOf,
} from '../../src/migrate/ownership.ts'
import { commitMissing, handOverUnconfirmed } from '../../src/migrate/ownership-advice.ts'

const ENDS: DestinationEnd[] = [
  ...(['shut-success', 'shut-failure', 'closed'] as const),
  ...(['broken', 'silent', 'garbled', 'aborted'] as const),
]

describe('the verdict', () => {
  it.each(ENDS)('resumes the source while the destination lacks something: %s', (end) => {
    expect(verdictOf('qemu', false, end)).toBe('kept')
    expect(verdictOf('multifd', false, end)).toBe('kept')
  })

  it.each([
    ['shut-success', 'given', 'given'],
    ['shut-failure', 'kept', 'unknown'],
    ['closed', 'kept', 'unknown'],
    ['broken', 'unknown', 'unknown'],
    ['silent', 'unknown', 'unknown'],
    ['garbled', 'unknown', 'unknown'],
    ['aborted', 'unknown', 'unknown'],
  ] as const)('follows from what is known once it has everything: %s', (end, qemu, own) => {
    expect(verdictOf('qemu', true, end)).toBe(qemu)
    expect(verdictOf('multifd', true, end)).toBe(own)
  })
})

const NOBODY_HAS_TO = /nobody has to decide who has the guest: its state here is \w+/

describe('the source', () => {
  function handedOver(peer: 'multifd' | 'qemu' = 'multifd'): SourceOwnership {
    const ownership = new SourceOwnership(peer)
    ownership.stop()
    ownership.handOver()
    return ownership
  }

  it.each(ENDS)('may resume whatever fails before it hands over: %s', (end) => {
    const ownership = new SourceOwnership('multifd')
    ownership.stop()
    expect(ownership.mayResume).toBe(false)
    expect(ownership.ended(end)).toBe('kept')
    expect(ownership.mayResume).toBe(true)
  })

  it('never resumes by itself after the commit', () => {
    for (const end of ENDS) {
      const ownership = handedOver()
      expect(ownership.ended(end)).toBe(end === 'shut-success' ? 'given' : 'unknown')
      expect(ownership.mayResume).toBe(false)
    }
  })

  it('does what the operator says, once, and only when nobody else knows', () => {
    const ownership = handedOver()
    expect(() => ownership.decide('source')).toThrow(NOBODY_HAS_TO)
    ownership.ended('silent')
    expect(() => ownership.decide('me' as 'source')).toThrow(TypeError)
    ownership.decide('source')
    expect(ownership.mayResume).toBe(true)
    expect(() => ownership.decide('destination')).toThrow(NOBODY_HAS_TO)
    const other = handedOver()
    other.ended('broken')
    other.decide('destination')
    expect(other.ended('closed')).toBe('given')
  })

  it('learns from a late word of the destination, until there is a verdict', () => {
    const ownership = handedOver('qemu')
    expect(ownership.ended('silent')).toBe('unknown')
    expect(ownership.ended('shut-success')).toBe('given')
    expect(ownership.ended('shut-failure')).toBe('given')
  })

  it('hands nothing over that it has not stopped, or that has failed', () => {
    const running = new SourceOwnership('multifd')
    expect(() => running.handOver()).toThrow('hand-over while the guest is running')
    running.stop()
    running.ended('aborted')
    expect(() => running.handOver()).toThrow('hand-over while the guest is kept')
  })
})

describe('the destination', () => {
  it('runs the guest on a commit that follows "ready", and not before', () => {
    const ownership = new DestinationOwnership()
    expect(() => ownership.commit()).toThrow(MultifdError)
    ownership.loaded()
    expect(ownership.mayRun).toBe(false)
    expect(ownership.commit()).toBe(true)
    expect(ownership.failed()).toBe('taken')
    expect(() => ownership.decide('source')).toThrow(NOBODY_HAS_TO)
  })

  it('never runs what it could not load', () => {
    const ownership = new DestinationOwnership()
    expect(ownership.failed()).toBe('refused')
    expect(ownership.commit()).toBe(false)
    expect(() => ownership.decide('destination')).toThrow(NOBODY_HAS_TO)
  })

  it('asks its operator when no commit came, and takes none from then on', () => {
    for (const [owner, state] of [
      ['destination', 'taken'],
      ['source', 'refused'],
    ] as const) {
      const ownership = new DestinationOwnership()
      ownership.loaded()
      expect(ownership.failed()).toBe('unknown')
      expect(ownership.commit()).toBe(false)
      ownership.decide(owner)
      expect(ownership.state).toBe(state)
    }
  })
})

it('both sides tell both ways out, and to end the guest on one side first', () => {
  const cause = new MultifdError('ERR_MULTIFD_TIMEOUT', 'the peer was silent')
  for (const { message } of [handOverUnconfirmed(cause), commitMissing(cause)]) {
    expect(message).toContain('the peer was silent')
    expect(message).toMatch(/look whether it runs .*decide\('(source|destination)'\) here/)
    expect(message).toMatch(/see to it that it never will.*and only then/)
  }
})
