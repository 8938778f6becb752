// A source of ours (or a relay that speaks for one) and a QEMU, which starts the guest by itself
// when it has everything, and says SHUT(0) just after. An operator sees the source's state and
// QEMU's "info status".

import type { nextOfSource, SourceState } from '../../src/migrate/ownership.ts'
import {
  cuts,
  HUNG_UP,
  leftBehind,
  type Model,
  type Reaches,
  type Step,
  type StepKind,
  type Wire,
  written,
} from './ownership-explorer.ts'

export interface QemuRules {
  source: typeof nextOfSource
  /** Whether the guest can never run in a QEMU any more, as far as the operator sees. */
  neverRuns: (qemu: QemuWorld['qemu']) => boolean
}

export interface QemuWorld {
  source: { state: SourceState; alive: boolean }
  qemu: { state: 'loading' | 'running' | 'failed'; alive: boolean; hasAll: boolean; said: boolean }
  toQemu: Wire
  toSource: Wire
  /** QEMU ran the guest; if it is gone since, the guest died with it. */
  arrived: boolean
  disturbed: boolean
}

const START: QemuWorld = {
  source: { state: 'running', alive: true },
  qemu: { state: 'loading', alive: true, hasAll: false, said: false },
  toQemu: { queue: [], open: true },
  toSource: { queue: [], open: true },
  arrived: false,
  disturbed: false,
}

const WAITING = ['running', 'stopped', 'handed-over']
const runsAtSource = ({ source }: QemuWorld): boolean =>
  source.alive && ['running', 'kept'].includes(source.state)
const runsInQemu = ({ qemu }: QemuWorld): boolean => qemu.alive && qemu.state === 'running'
const runs = (world: QemuWorld): boolean => runsAtSource(world) || runsInQemu(world)

export function towardsQemu(rules: QemuRules): Model<QemuWorld> {
  return { start: START, steps: (world) => new Moves(rules, world).all(), always, atRest }
}

function always(world: QemuWorld): string | undefined {
  if (runsAtSource(world) && runsInQemu(world)) return 'two guests run'
  const { source, arrived } = world
  if (source.alive && source.state === 'given' && !arrived) {
    return 'the source gave the guest away for good, and nobody has it'
  }
  return undefined
}

function atRest(world: QemuWorld, operatorReaches: Reaches<QemuWorld>): string | undefined {
  const { source, disturbed, arrived } = world
  if (!disturbed && !(runsInQemu(world) && source.state === 'given')) {
    return 'nothing went wrong, and QEMU does not have the guest'
  }
  const diedThere = source.state === 'given' && arrived
  if (runs(world) || !source.alive || diedThere) return undefined
  if (source.state !== 'unknown') return 'no guest runs, and the source does not say so'
  return operatorReaches(runs) ? undefined : 'the operator has no way out'
}

class Moves {
  readonly #rules: QemuRules
  readonly #world: QemuWorld
  readonly #steps: Step<QemuWorld>[] = []

  constructor(rules: QemuRules, world: QemuWorld) {
    this.#rules = rules
    this.#world = world
  }

  all(): Step<QemuWorld>[] {
    if (this.#world.source.alive) this.#source()
    if (this.#world.qemu.alive) this.#qemu()
    this.#faults()
    if (this.#world.source.alive && this.#world.source.state === 'unknown') this.#operator()
    return this.#steps
  }

  #add(kind: StepKind, label: string, change: Partial<QemuWorld>): void {
    this.#steps.push({ kind, label, world: { ...this.#world, ...change } })
  }

  #source(): void {
    const { source, toQemu, toSource } = this.#world
    if (source.state === 'running') {
      const sent = { toQemu: written(toQemu, 'pages') }
      this.#next('source stops the guest and sends pages', 'stop', sent)
    } else if (source.state === 'stopped') {
      const sent = { toQemu: written(toQemu, 'the rest') }
      this.#next('source sends the rest', 'hand-over', sent)
    }
    const [word, ...queue] = toSource.queue
    const read = { toSource: { ...toSource, queue } }
    if (word !== undefined) this.#next(`source reads ${word}`, endOf(word), read)
    if (!WAITING.includes(source.state)) return
    const disturbed = { disturbed: true }
    this.#next('source waits in vain', 'silent', disturbed)
    this.#next('source reads nonsense', 'garbled', { ...disturbed, toSource: HUNG_UP })
    this.#next('source is cancelled, or fails by itself', 'aborted', disturbed)
  }

  #next(
    label: string,
    event: Parameters<QemuRules['source']>[2],
    change: Partial<QemuWorld>,
  ): void {
    const before = this.#world.source.state
    const state = this.#rules.source('qemu', before, event)
    if (state === undefined) throw new Error(`${label}: ${event} is not allowed in ${before}`)
    const world = { ...change, source: { ...this.#world.source, state } }
    this.#add('own', label, world)
    if (WAITING.includes(state) || state === before) return
    // A relay in doubt goes on listening; whoever has a verdict, or is no relay, hangs up.
    for (const [how, wire] of cuts(change.toQemu ?? this.#world.toQemu)) {
      this.#add('own', `${label}, and hangs up, ${how}`, {
        ...world,
        toQemu: wire,
        toSource: HUNG_UP,
      })
    }
  }

  #qemu(): void {
    const { qemu, toQemu, toSource } = this.#world
    if (qemu.state === 'loading') this.#fails('QEMU fails', { disturbed: true })
    if (qemu.state === 'loading' && qemu.hasAll) {
      const change = { qemu: { ...qemu, state: 'running' as const }, arrived: true }
      this.#add('own', 'QEMU starts the guest', change)
    }
    if (qemu.state === 'running' && !qemu.said) {
      const wire = { ...written(toSource, 'SHUT 0', 'closed'), open: false }
      this.#add('own', 'QEMU says SHUT 0', { qemu: { ...qemu, said: true }, toSource: wire })
    }
    const [word, ...queue] = toQemu.queue
    if (word === undefined) return
    const read = { toQemu: { ...toQemu, queue } }
    const all = qemu.hasAll || word === 'the rest'
    const goesOn = all || word === 'pages' || qemu.state !== 'loading'
    if (!goesOn) this.#fails(`QEMU reads ${word}`, read)
    else this.#add('own', `QEMU reads ${word}`, { ...read, qemu: { ...qemu, hasAll: all } })
  }

  #fails(label: string, change: Partial<QemuWorld>): void {
    const { qemu, toSource } = this.#world
    const world = { ...change, qemu: { ...qemu, state: 'failed' as const } }
    const said = written(toSource, 'SHUT 1', 'closed')
    this.#add('own', `${label}, and says so`, { ...world, toSource: { ...said, open: false } })
    for (const [how, wire] of leftBehind(toSource)) {
      this.#add('own', `${label}, without a word, connections ${how}`, { ...world, toSource: wire })
    }
  }

  #faults(): void {
    const { source, qemu, toQemu, toSource } = this.#world
    const disturbed = { disturbed: true }
    for (const [how, wire] of cuts(toQemu)) {
      this.#add('fault', `source to QEMU ${how}`, { ...disturbed, toQemu: wire })
    }
    for (const [how, wire] of cuts(toSource)) {
      this.#add('fault', `QEMU to source ${how}`, { ...disturbed, toSource: wire })
    }
    for (const [how, wire] of source.alive ? leftBehind(toQemu) : []) {
      const gone = { source: { ...source, alive: false }, toSource: HUNG_UP, toQemu: wire }
      this.#add('fault', `source is killed, connections ${how}`, { ...disturbed, ...gone })
    }
    for (const [how, wire] of qemu.alive ? leftBehind(toSource) : []) {
      const gone = { qemu: { ...qemu, alive: false }, toSource: wire, toQemu: HUNG_UP }
      this.#add('fault', `QEMU is killed, connections ${how}`, { ...disturbed, ...gone })
    }
  }

  /** Looks at QEMU; one that does not run the guest is made to quit before the source resumes. */
  #operator(): void {
    const { qemu } = this.#world
    if (this.#rules.neverRuns(qemu)) this.#decide('source')
    else if (qemu.alive && qemu.state === 'running') this.#decide('destination')
    else this.#add('operator', 'operator quits QEMU', { qemu: { ...qemu, alive: false } })
  }

  #decide(owner: 'source' | 'destination'): void {
    const { source } = this.#world
    const state = this.#rules.source('qemu', source.state, `decide-${owner}`) ?? source.state
    const change = { source: { ...source, state } }
    this.#add('operator', `operator at the source decides: ${owner}`, change)
  }
}

function endOf(word: string): 'shut-success' | 'shut-failure' | 'closed' | 'broken' {
  if (word === 'SHUT 0') return 'shut-success'
  if (word === 'SHUT 1') return 'shut-failure'
  return word === 'closed' ? 'closed' : 'broken'
}
