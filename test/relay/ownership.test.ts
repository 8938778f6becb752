// Who may have the guest, for every way a destination can end: a table, and what holds in all of
// it.

import { describe, expect, it } from 'vitest'
import { type DestinationEnd, verdictOf } from '../../src/relay/ownership.ts'

const ENDS: DestinationEnd[] = [
  ...(['shut-success', 'shut-failure', 'closed'] as const),
  ...(['broken', 'silent', 'garbled', 'aborted'] as const),
]

describe('the verdict', () => {
  it.each(ENDS)('resumes the source while the destination lacks something: %s', (end) => {
    expect(verdictOf(false, end)).toBe('source-resumes')
  })

  it.each([
    ['shut-success', 'completed'],
    ['shut-failure', 'source-resumes'],
    ['closed', 'source-resumes'],
    ['broken', 'unknown'],
    ['silent', 'unknown'],
    ['garbled', 'unknown'],
    ['aborted', 'unknown'],
  ] as const)('follows from what is known once it has everything: %s', (end, verdict) => {
    expect(verdictOf(true, end)).toBe(verdict)
  })
})
