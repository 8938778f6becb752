// Finds contestants in the results of any comparison: a list of turns, each with `seconds` and what
// it says of bytes and CPU time, is one. Lists beside each other are a field. Pure.

/** One way of doing it: its value in each turn, empty where it was not measured. */
export interface Contestant {
  readonly name: string
  readonly seconds: readonly number[]
  readonly bytesPerSecond: readonly number[]
  readonly cpuSecondsPerGb: readonly number[]
}

export interface Field {
  /** Where in the results; empty at their top. */
  readonly title: string
  readonly contestants: readonly Contestant[]
}

/** As many bytes of results as a page embeds; more, and channels' counters stay out. */
const EMBEDDED_BYTES_MAX = 60_000
const GB = 1e9

type Fields = Readonly<Record<string, unknown>>

export function contestantsIn(results: Fields, title = '', memoryBytes?: number): Field[] {
  const bytes = numberOf(results, 'memoryBytes') ?? numberOf(results, 'memory') ?? memoryBytes
  const contestants: Contestant[] = []
  const below: Field[] = []
  for (const [name, value] of Object.entries(results)) {
    const turns = Array.isArray(value) ? value.filter(isFields) : []
    if (turns.some((turn) => numberOf(turn, 'seconds') !== undefined)) {
      contestants.push(contestantOf(name, turns, bytes))
    } else if (isFields(value)) {
      below.push(...contestantsIn(value, titleOf(title, name), bytes))
    } else {
      turns.forEach((turn, i) => {
        const label = typeof turn.path === 'string' ? turn.path : `${name} ${i + 1}`
        below.push(...contestantsIn(turn, titleOf(title, label), bytes))
      })
    }
  }
  return contestants.length > 0 ? [{ title, contestants }, ...below] : below
}

function contestantOf(name: string, turns: readonly Fields[], memoryBytes?: number): Contestant {
  const each = (pick: (turn: Fields, bytes: number | undefined) => number | undefined) =>
    turns
      .map((turn) => pick(turn, numberOf(turn, 'ramBytes') ?? memoryBytes))
      .filter((value) => value !== undefined)
  const perGb = (seconds: number | undefined, bytes: number | undefined) =>
    seconds === undefined || bytes === undefined ? undefined : seconds / (bytes / GB)
  return {
    name,
    seconds: each((turn) => numberOf(turn, 'seconds')),
    bytesPerSecond: each((turn, bytes) =>
      bytes === undefined ? undefined : bytes / (numberOf(turn, 'seconds') ?? Number.NaN),
    ),
    cpuSecondsPerGb: each((turn, bytes) => perGb(cpuSecondsOf(turn), bytes)),
  }
}

function cpuSecondsOf(turn: Fields): number | undefined {
  const source = numberOf(turn, 'sourceCpuSeconds')
  const destination = numberOf(turn, 'destinationCpuSeconds')
  if (source !== undefined && destination !== undefined) return source + destination
  return numberOf(turn, 'cpuSeconds')
}

function titleOf(outer: string, name: string): string {
  return name === 'turns' ? outer : outer === '' ? name : `${outer}, ${name}`
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function numberOf(fields: Fields, name: string): number | undefined {
  const value = fields[name]
  return typeof value === 'number' ? value : undefined
}

/** The results, without the counters of single channels where all of it would be too much. */
export function withoutCounters(results: Fields): Fields {
  if (JSON.stringify(results).length <= EMBEDDED_BYTES_MAX) return results
  const thin = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(thin)
    if (typeof value === 'number') return Number(value.toPrecision(6))
    if (!isFields(value)) return value
    const kept = Object.entries(value).filter(
      ([name]) => !['source', 'destination', 'channels'].includes(name),
    )
    return Object.fromEntries(kept.map(([name, inner]) => [name, thin(inner)]))
  }
  return { ...(thin(results) as Fields), leftOut: 'what each side counted: --json has it' }
}
