// Two of our own ends, the connection between them and an operator, for every order in which things
// can happen. Who owns the guest is asked of the tables under test; what is written when, and who
// hangs up, follows src/source.ts and src/destination.ts.

import type {
  DestinationState,
  nextOfDestination,
  nextOfSource,
  SourceState,
} from '../../src/migrate/ownership.ts'
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

/** What is under test, and what a test breaks. */
export interface Rules {
  source: typeof nextOfSource
  destination: typeof nextOfDestination
  /** Whether the guest can never run at a side any more, as far as its operator sees. */
  neverRuns: (side: { alive: boolean; state: SourceState | DestinationState }) => boolean
}

export interface World {
  source: { state: SourceState; alive: boolean }
  destination: { state: DestinationState; alive: boolean; hasAll: boolean }
  toDestination: Wire
  toSource: Wire
  began: boolean
  committed: boolean
  /** The destination had the guest; if it has died since, the guest died with it. */
  arrived: boolean
  operatorGave: boolean
  killed: boolean
  /** Something was lost, killed, cancelled, or waited for in vain. */
  disturbed: boolean
}

const START: World = {
  source: { state: 'running', alive: true },
  destination: { state: 'loading', alive: true, hasAll: false },
  toDestination: { queue: [], open: true },
  toSource: { queue: [], open: true },
  began: false,
  committed: false,
  arrived: false,
  operatorGave: false,
  killed: false,
  disturbed: false,
}

const ENDS = ['shut-failure', 'closed', 'broken', 'silent', 'garbled', 'aborted'] as const
const WAITING = ['running', 'stopped', 'handed-over']

const runsAtSource = ({ source }: World): boolean =>
  source.alive && ['running', 'kept'].includes(source.state)
const runsAtDestination = ({ destination }: World): boolean =>
  destination.alive && destination.state === 'taken'
const runs = (world: World): boolean => runsAtSource(world) || runsAtDestination(world)

export function ownEnds(rules: Rules): Model<World> {
  return {
    start: START,
    steps: (world) => new Moves(rules, world).all(),
    always: (world) => always(rules, world),
    atRest,
  }
}

function always(rules: Rules, world: World): string | undefined {
  const { source, committed, arrived, operatorGave } = world
  if (runsAtSource(world) && runsAtDestination(world)) return 'two guests run'
  if (!source.alive) return undefined
  if (!committed) {
    const { state } = source
    const lost = ENDS.filter((end) => rules.source('multifd', state, end) !== 'kept')
    if (lost.length > 0) return `before the commit ${lost} does not let the source resume`
  }
  if (source.state === 'given' && !arrived && !operatorGave) {
    return 'the source gave the guest away for good, and nobody has it'
  }
  return undefined
}

function atRest(world: World, operatorReaches: Reaches<World>): string | undefined {
  const { source, destination, killed, disturbed } = world
  if (!disturbed && !(runsAtDestination(world) && source.state === 'given')) {
    return 'nothing went wrong, and the guest is not at the destination'
  }
  if (runs(world)) return undefined
  const silent = [
    source.alive && !['unknown', 'given'].includes(source.state) && 'source',
    destination.alive && !['unknown', 'refused'].includes(destination.state) && 'destination',
  ].filter((side) => side !== false)
  if (silent.length > 0) return `no guest runs, and this side does not say so: ${silent}`
  const asked = [source, destination].some(({ alive, state }) => alive && state === 'unknown')
  if (asked && !operatorReaches(runs)) return 'the operator has no way out'
  if (!asked && !killed) return 'nobody was killed, and the guest is lost'
  return undefined
}

/** Everything that can happen next. */
class Moves {
  readonly #rules: Rules
  readonly #world: World
  readonly #steps: Step<World>[] = []

  constructor(rules: Rules, world: World) {
    this.#rules = rules
    this.#world = world
  }

  all(): Step<World>[] {
    if (this.#world.source.alive) this.#source()
    if (this.#world.destination.alive) this.#destination()
    this.#faults()
    this.#operator()
    return this.#steps
  }

  #add(kind: StepKind, label: string, change: Partial<World>): void {
    this.#steps.push({ kind, label, world: { ...this.#world, ...change } })
  }

  #source(): void {
    const { source, toSource, toDestination } = this.#world
    if (source.state === 'running' && !this.#world.began) {
      const sent = { began: true, toDestination: written(toDestination, 'pages') }
      this.#add('own', 'source sends pages', sent)
    } else if (source.state === 'running') {
      const sent = { toDestination: written(toDestination, 'the rest') }
      this.#toSource('source stops the guest and sends the rest', 'stop', sent)
    }
    const [word, ...queue] = toSource.queue
    const read = { toSource: { ...toSource, queue } }
    const isReady = word === 'SHUT 0' && source.state === 'stopped'
    if (word !== undefined && isReady) {
      const sent = { ...read, committed: true, toDestination: written(toDestination, 'commit') }
      this.#toSource('source reads "ready" and sends the commit', 'hand-over', sent)
    } else if (word !== undefined) {
      this.#toSource(`source reads ${word}`, endOf(word, source.state), read)
    }
    if (!WAITING.includes(source.state)) return
    const disturbed = { disturbed: true }
    this.#toSource('source waits in vain', 'silent', disturbed)
    this.#toSource('source is cancelled, or fails by itself', 'aborted', disturbed)
  }

  /** The source's next state, and what it does to its connection then. */
  #toSource(label: string, event: Parameters<Rules['source']>[2], change: Partial<World>): void {
    const before = this.#world.source.state
    const state = this.#rules.source('multifd', before, event)
    if (state === undefined) throw new Error(`${label}: ${event} is not allowed in ${before}`)
    const world = { ...change, source: { ...this.#world.source, state } }
    if (WAITING.includes(state) || state === before) {
      this.#add('own', label, world)
      return
    }
    const wire = change.toDestination ?? this.#world.toDestination
    const over = { ...world, toSource: HUNG_UP }
    const closed = { toDestination: { ...written(wire, 'closed'), open: false } }
    this.#add('own', `${label}, and closes`, { ...over, ...closed })
    if (state === 'given') return
    for (const [how, cut] of cuts(wire)) {
      this.#add('own', `${label}, and resets, ${how}`, { ...over, toDestination: cut })
    }
  }

  #destination(): void {
    const { destination, toDestination } = this.#world
    const waits = ['loading', 'ready'].includes(destination.state)
    if (waits) this.#failed('destination waits in vain, or is closed', { disturbed: true })
    if (destination.state === 'loading' && destination.hasAll) {
      this.#failed('destination cannot load it', { disturbed: true })
      this.#toDestination('destination has loaded it and says "ready"', 'loaded', {})
    }
    const [word, ...queue] = toDestination.queue
    if (word === undefined) return
    const read = { toDestination: { ...toDestination, queue } }
    const label = `destination reads ${word}`
    if (word === 'commit') this.#toDestination(label, 'commit', read)
    else if (word === 'pages') this.#add('own', label, read)
    else if (word !== 'the rest') this.#failed(label, read)
    else this.#add('own', label, { ...read, destination: { ...destination, hasAll: true } })
  }

  #toDestination(label: string, event: 'loaded' | 'commit', change: Partial<World>): void {
    const before = this.#world.destination.state
    const state = this.#rules.destination(before, event)
    if (state === undefined) throw new Error(`${label}: ${event} is not allowed in ${before}`)
    const said = state === before ? [] : ['SHUT 0']
    this.#add('own', label, {
      ...change,
      destination: { ...this.#world.destination, state },
      toSource: written(this.#world.toSource, ...said, ...(state === 'taken' ? ['closed'] : [])),
      arrived: this.#world.arrived || state === 'taken',
    })
  }

  #failed(label: string, change: Partial<World>): void {
    const { destination, toSource } = this.#world
    const state = this.#rules.destination(destination.state, 'failed')
    if (state === undefined) throw new Error(`${label}: failed is not allowed`)
    const world = { ...change, destination: { ...destination, state } }
    if (state === destination.state) {
      this.#add('own', label, world)
      return
    }
    // Both hang up; whatever still came would be read by nobody but the table.
    const refused: Wire = { queue: [...toSource.queue, 'SHUT 1', 'closed'], open: false }
    if (toSource.open) this.#add('own', `${label}, and says so`, { ...world, toSource: refused })
    for (const [how, wire] of cuts(toSource)) {
      this.#add('own', `${label}, and resets, ${how}`, { ...world, toSource: wire })
    }
    if (!toSource.open) this.#add('own', label, world)
  }

  #faults(): void {
    const { source, destination, toSource, toDestination } = this.#world
    const disturbed = { disturbed: true }
    for (const [how, wire] of cuts(toDestination)) {
      this.#add('fault', `source to destination ${how}`, { ...disturbed, toDestination: wire })
    }
    for (const [how, wire] of cuts(toSource)) {
      this.#add('fault', `destination to source ${how}`, { ...disturbed, toSource: wire })
    }
    const killed = { ...disturbed, killed: true }
    for (const [how, wire] of source.alive ? leftBehind(toDestination) : []) {
      const gone = { source: { ...source, alive: false }, toSource: HUNG_UP, toDestination: wire }
      this.#add('fault', `source is killed, connections ${how}`, { ...killed, ...gone })
    }
    for (const [how, wire] of destination.alive ? leftBehind(toSource) : []) {
      const left = { toSource: wire, toDestination: HUNG_UP }
      const gone = { destination: { ...destination, alive: false }, ...left }
      this.#add('fault', `destination is killed, connections ${how}`, { ...killed, ...gone })
    }
  }

  /** One operator, who looks first: what the sentences in ownership-advice.ts ask for. */
  #operator(): void {
    const { source, destination } = this.#world
    const { neverRuns } = this.#rules
    const there = destination.alive && ['taken', 'unknown'].includes(destination.state)
    const here = source.alive && ['kept', 'unknown'].includes(source.state)
    if (source.alive && source.state === 'unknown') {
      if (neverRuns(destination)) this.#decideAtSource('source')
      if (there) this.#decideAtSource('destination')
    }
    if (destination.alive && destination.state === 'unknown') {
      if (neverRuns(source)) this.#decideAtDestination('destination')
      if (here) this.#decideAtDestination('source')
    }
  }

  #decideAtSource(owner: 'source' | 'destination'): void {
    const { source } = this.#world
    const state = this.#rules.source('multifd', source.state, `decide-${owner}`) ?? source.state
    const operatorGave = this.#world.operatorGave || owner === 'destination'
    const change = { source: { ...source, state }, operatorGave }
    this.#add('operator', `operator at the source decides: ${owner}`, change)
  }

  #decideAtDestination(owner: 'source' | 'destination'): void {
    const { destination, arrived } = this.#world
    const state = this.#rules.destination(destination.state, `decide-${owner}`) ?? destination.state
    const change = { destination: { ...destination, state }, arrived: arrived || state === 'taken' }
    this.#add('operator', `operator at the destination decides: ${owner}`, change)
  }
}

function endOf(word: string, state: SourceState): (typeof ENDS)[number] | 'shut-success' {
  if (word === 'SHUT 0') return state === 'running' ? 'garbled' : 'shut-success'
  if (word === 'SHUT 1') return 'shut-failure'
  return word === 'closed' ? 'closed' : 'broken'
}
