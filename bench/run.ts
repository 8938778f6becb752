// How every comparison measures: contestants take turns (A B A B ...), one warm-up turn is thrown
// away, and a ratio is taken within each turn, so that slow stretches of the machine hit both.

/** A ratio over all turns. `samples` are the single turns' ratios, in order. */
export interface Ratio {
  readonly median: number
  readonly min: number
  readonly max: number
  readonly samples: readonly number[]
}

export interface Turn {
  /** 0-based; -1 is the warm-up. */
  readonly index: number
  readonly warmUp: boolean
}

/** What each contestant does in its turn. */
export type Contestants<Results> = {
  readonly [Name in keyof Results]: (turn: Turn) => Promise<Results[Name]>
}

/**
 * Runs every contestant once per turn, in the same order each time, after one warm-up turn whose
 * results are dropped, unless `warmUp` is false. Stops at the first failure.
 */
export async function alternate<Results extends Record<string, unknown>>(
  contestants: Contestants<Results>,
  options: { readonly turns: number; readonly signal: AbortSignal; readonly warmUp?: boolean },
): Promise<{ [Name in keyof Results]: Results[Name][] }> {
  const names: (keyof Results)[] = Object.keys(contestants)
  const results = {} as { [Name in keyof Results]: Results[Name][] }
  for (const name of names) results[name] = []
  for (let index = options.warmUp === false ? 0 : -1; index < options.turns; index++) {
    const turn = { index, warmUp: index < 0 }
    for (const name of names) {
      options.signal.throwIfAborted()
      const result = await contestants[name](turn)
      if (!turn.warmUp) results[name].push(result)
    }
  }
  return results
}

/** How progress lines name a turn. */
export function turnName({ index, warmUp }: Turn, turns: number): string {
  return warmUp ? 'warm-up' : `${index + 1}/${turns}`
}

/** The middle value; the mean of the two middle ones of an even number. NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
  const lower = sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN
  return (lower + upper) / 2
}

export function ratioOf(samples: readonly number[]): Ratio {
  return { median: median(samples), min: Math.min(...samples), max: Math.max(...samples), samples }
}

/** One ratio per turn: `a / b`, the values of both in order of turns. */
export function pairedRatio(a: readonly number[], b: readonly number[]): Ratio {
  if (a.length !== b.length) throw new Error(`${a.length} results paired with ${b.length}`)
  return ratioOf(a.map((value, i) => value / (b[i] as number)))
}
