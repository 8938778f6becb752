// From facts to findings, whether a migration works at all, and the sentence at the end. Pure.

import {
  chooseEngine,
  type EngineChoice,
  type EngineQuestion,
} from '../../schedule/engine-choice.ts'
import type { Facts, PathFacts } from './facts.ts'
import type { Finding } from './finding.ts'
import { judgeKernel } from './judge-kernel.ts'
import { judgeLimits } from './judge-limits.ts'
import { judgeMachine } from './judge-machine.ts'

export interface Diagnosis {
  readonly canMigrate: boolean
  /** What a migration from here will use, or what stands in its way. */
  readonly summary: string
  readonly findings: readonly Finding[]
}

export function judge(facts: Facts): Diagnosis {
  const findings = [...judgeMachine(facts), ...judgeKernel(facts), ...judgeLimits(facts)]
  const inTheWay = findings.filter(({ status, required }) => status === 'missing' && required)
  const canMigrate = inTheWay.length === 0
  const summary = canMigrate ? willUse(facts) : cannot(inTheWay)
  return { canMigrate, summary, findings }
}

function cannot(inTheWay: readonly Finding[]): string {
  const titles = inTheWay.map(({ title, value }) => `${title} (${value})`)
  return `No migration works here because of: ${titles.join(', ')}.`
}

function willUse(facts: Facts): string {
  const byKernel = facts.tracking?.there === true
  const usual = choose(facts, { discards: true })
  const best = choose(facts, { discards: false })
  const better =
    best.engine === usual.engine
      ? ''
      : ' With discards: false and all memory of the guest populated, none of it in huge pages: ' +
        `${best.engine}, registered memory.`
  return (
    `A migration from here will track writes ${byKernel ? 'with userfaultfd' : 'by hashes'}, ` +
    `send with ${usual.engine}, ${zeroCopy(usual, facts.paths)}.${better}`
  )
}

/** What MigrationSource would choose between machines, by the same function. */
function choose(facts: Facts, { discards }: { discards: boolean }): EngineChoice {
  const question: EngineQuestion = {
    asked: { engine: 'auto', zeroCopy: 'auto' },
    path: 'network',
    privateCopies: facts.tracking?.there !== true,
    compressed: false,
    populated: true,
    lockable: facts.lockedMemoryBytes === Number.POSITIVE_INFINITY,
    discards,
  }
  return chooseEngine(question, facts.ioUring)
}

function zeroCopy(choice: EngineChoice, paths: readonly PathFacts[]): string {
  if (!choice.zeroCopy) return 'and copy all pages'
  const named = (verdict: string): string =>
    paths
      .filter(({ probe }) => probe.verdict === verdict)
      .map(({ name }) => name)
      .join(', ')
  const [good, bad] = [named('not-copied'), named('copied')]
  if (good === '' && bad === '') return 'and use zero-copy where each channel finds that it pays'
  if (good === '') return `and copy all pages: zero-copy gains nothing on ${bad}`
  return `and use zero-copy on ${good}${bad === '' ? '' : `, not on ${bad}`}`
}
