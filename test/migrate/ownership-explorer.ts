// Goes through every world that can follow from a first one, breadth first, so that the trace to a
// broken rule is a shortest one. A world is plain data; two are the same if their JSON is.

export type StepKind =
  /** What happens by itself, sooner or later: sending, arriving, waiting in vain. */
  | 'own'
  /** What need not happen: a cut, a kill. */
  | 'fault'
  | 'operator'

export interface Step<World> {
  kind: StepKind
  label: string
  world: World
}

export interface Model<World> {
  start: World
  steps: (world: World) => Step<World>[]
  /** What is broken in this world, whatever comes next. */
  always: (world: World) => string | undefined
  /** What is broken in a world in which nothing happens by itself any more. */
  atRest: (world: World, operatorReaches: Reaches<World>) => string | undefined
}

/** Whether the operator's steps alone lead to a world like that. */
export type Reaches<World> = (wanted: (world: World) => boolean) => boolean

export interface Exploration {
  states: number
  steps: number
  atRest: number
  /** The first broken rule, with every step that led to it; undefined if all hold. */
  violation: string | undefined
}

export function explore<World>(model: Model<World>): Exploration {
  const first = JSON.stringify(model.start)
  const cameFrom = new Map<string, { label: string; from: string } | undefined>()
  cameFrom.set(first, undefined)
  const found = { states: 0, steps: 0, atRest: 0, violation: undefined as string | undefined }
  for (const key of cameFrom.keys()) {
    const world = JSON.parse(key) as World
    const steps = model.steps(world)
    const follows = steps.map((step) => ({ ...step, next: JSON.stringify(step.world) }))
    found.states += 1
    found.steps += steps.length
    let broken = model.always(world)
    if (!follows.some(({ kind, next }) => kind === 'own' && next !== key)) {
      found.atRest += 1
      broken ??= model.atRest(world, (wanted) => operatorReaches(model, world, wanted))
    }
    if (broken !== undefined) {
      found.violation = `${broken}\n${traceTo(key, cameFrom)}\n  = ${key}`
      return found
    }
    for (const { label, next } of follows) {
      if (!cameFrom.has(next)) cameFrom.set(next, { label, from: key })
    }
  }
  return found
}

function operatorReaches<World>(
  model: Model<World>,
  from: World,
  wanted: (world: World) => boolean,
): boolean {
  if (wanted(from)) return true
  const steps = model.steps(from).filter(({ kind }) => kind === 'operator')
  return steps.some(({ world }) => operatorReaches(model, world, wanted))
}

function traceTo(
  key: string,
  cameFrom: Map<string, { label: string; from: string } | undefined>,
): string {
  const labels: string[] = []
  for (let at = cameFrom.get(key); at !== undefined; at = cameFrom.get(at.from)) {
    labels.push(at.label)
  }
  return labels
    .reverse()
    .map((label, index) => `  ${index + 1}. ${label}`)
    .join('\n')
}

/** One direction of a connection: what is on its way, in order. */
export interface Wire {
  queue: string[]
  /** What is written still enters it. */
  open: boolean
}

export function written(wire: Wire, ...words: string[]): Wire {
  return wire.open ? { ...wire, queue: [...wire.queue, ...words] } : wire
}

/** Nobody reads here any more. */
export const HUNG_UP: Wire = { queue: [], open: false }

/** In every way in which a connection can lose its end: TCP keeps the order of what arrives. */
export function cuts({ queue, open }: Wire): [how: string, wire: Wire][] {
  if (!open && queue.length === 0) return []
  const all: [string, Wire][] = []
  for (let kept = 0; kept <= queue.length; kept += 1) {
    const rest = queue.slice(0, kept)
    const how = `cut after ${kept} of ${queue.length} words`
    all.push([`${how}, silently`, { queue: rest, open: false }])
    all.push([`${how}, with a reset`, { queue: [...rest, 'reset'], open: false }])
  }
  // What was cut once already, or ends in order, may lose its last words, but gets no new end.
  return open ? all : all.filter(([, { queue: left }]) => left.length < queue.length)
}

/** What the kernel makes of the connection of a program that is gone. */
export function leftBehind(wire: Wire): [how: string, wire: Wire][] {
  if (!wire.open) return [['over', wire]]
  const orderly: Wire = { queue: [...wire.queue, 'closed'], open: false }
  return [['end in order', orderly], ...cuts(wire)]
}
