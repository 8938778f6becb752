// How exactly a bandwidth limit is kept, while it is changed twice: what comes through a path in
// any second, counted by the clock at its far end, against what may.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import { plainGuest, verdict } from '../contestants.ts'
import { CHANNELS_RANGE, numberOption, PAIRS_RANGE } from '../options.ts'
import { alternate, median, type Ratio, ratioOf, turnName } from '../run.ts'
import { runStaged, type StagedRun } from '../staged.ts'

const MIB = 2 ** 20
const MB = 1e6
const LIMITS = [32 * MB, 200 * MB, 32 * MB]
const TARGET = { atMost: 5 }
/** A stage; the span over which a rate is taken; what is sent in all must be less than RAM. */
const USUAL = { stageMs: 3500, spanMs: 1000, guestBytes: 1024 * MIB }
const SMOKE = { stageMs: 300, spanMs: 100, guestBytes: 128 * MIB }

export interface LimitOptions {
  readonly channels: number
  readonly pairs: number
  readonly smoke?: boolean
}

export const limit: Comparison<LimitOptions> = {
  name: 'limit',
  question: 'how exactly is a bandwidth limit kept, in any second, while it changes?',
  minutes: 2,
  declare: (command: Command) =>
    command
      .addOption(numberOption('--channels <n>', 'multifd channels', CHANNELS_RANGE).default(2))
      .addOption(numberOption('--pairs <n>', 'turns', PAIRS_RANGE).default(9))
      .option('--smoke', 'only to see that it works: a second, one turn'),
  run,
}

/** Under one limit, in percent of it: the mean, and the second that is furthest off. */
interface Kept {
  readonly bytesPerSecondMax: number
  readonly meanPercent: number
  readonly deviationPercent: number
}

async function run({ options, signal, progress }: Setting<LimitOptions>): Promise<Findings> {
  const { channels, smoke } = options
  const { stageMs, spanMs, guestBytes } = smoke ? SMOKE : USUAL
  const pairs = smoke ? 1 : options.pairs
  const guest = plainGuest(guestBytes, true)
  const stages = LIMITS.map((bytesPerSecond) => ({ bytesPerSecond, ms: stageMs }))
  const { runs } = await alternate(
    {
      runs: async (turn) => {
        const order = { guest, channels, unendingDevices: 0, stages }
        const kept = keptOf(await runStaged(order, signal), spanMs)
        const off = kept.map(({ deviationPercent }) => `${deviationPercent.toFixed(1)} %`)
        progress(`${turnName(turn, pairs)}  largest deviation ${off.join(', ')}`)
        return kept
      },
    },
    { turns: pairs, signal, warmUp: false },
  )
  const stageRatio = (stage: number): Ratio =>
    ratioOf(runs.map((kept) => kept[stage]?.deviationPercent ?? Number.NaN))
  const deviationPercent = ratioOf(
    runs.map((kept) => Math.max(...kept.map((stage) => stage.deviationPercent))),
  )
  return {
    results: { channels, spanMs, limits: LIMITS, deviationPercent: deviationPercent.median, runs },
    ratios: {
      deviationPercent,
      deviationPercent32: stageRatio(0),
      deviationPercent200: stageRatio(1),
      deviationPercent32Again: stageRatio(2),
    },
    tables: [
      {
        title: `What came through in any ${spanMs / 1e3} s, in percent of the limit`,
        columns: ['', 'mean', 'largest deviation, median', 'of all turns'],
        rows: LIMITS.map((bytesPerSecond, stage) => row(bytesPerSecond, stage, runs)),
      },
    ],
    notes: [
      verdict('deviationPercent', deviationPercent, TARGET),
      `Percent, no ratios. Any span of ${spanMs / 1e3} s that lies under one limit, but for the first ` +
        'second of the migration: each change counts from its call on.',
      'Counted in a process of its own between the two sides, behind the socket that the source sends ' +
        'to: headers and main channel are in it, and the lateness of that process, too.',
    ],
  }
}

function keptOf({ readings, samples }: StagedRun, spanMs: number): Kept[] {
  return LIMITS.map((bytesPerSecondMax, stage) => {
    const beginMs = (readings[stage]?.atMs ?? 0) + (stage === 0 ? spanMs : 0)
    const endMs = readings[stage + 1]?.atMs ?? 0
    const within = samples.filter(([atMs]) => atMs >= beginMs && atMs <= endMs)
    const percents = ratesOf(within, spanMs).map((rate) => (100 * rate) / bytesPerSecondMax)
    const [whole = Number.NaN] = ratesOf(within, endMs - beginMs - spanMs / 2)
    return {
      bytesPerSecondMax,
      meanPercent: (100 * whole) / bytesPerSecondMax,
      deviationPercent: Math.max(...percents.map((percent) => Math.abs(percent - 100))),
    }
  })
}

/** Bytes per second over every span of at least so long between two samples. */
export function ratesOf(
  samples: readonly (readonly [atMs: number, bytes: number])[],
  spanMs: number,
): number[] {
  const rates: number[] = []
  let to = 0
  for (const [fromMs, before] of samples) {
    while ((samples[to]?.[0] ?? Number.POSITIVE_INFINITY) < fromMs + spanMs) to += 1
    const end = samples[to]
    if (end === undefined) break
    rates.push(((end[1] - before) / (end[0] - fromMs)) * 1e3)
  }
  return rates
}

function row(bytesPerSecond: number, stage: number, runs: readonly (readonly Kept[])[]): string[] {
  const off = runs.map((kept) => kept[stage]?.deviationPercent ?? Number.NaN)
  const mean = runs.map((kept) => kept[stage]?.meanPercent ?? Number.NaN)
  const percent = (value: number) => `${value.toFixed(1)} %`
  return [
    `${bytesPerSecond / MB} MB/s${stage === 2 ? ' again' : ''}`,
    ...[median(mean), median(off), Math.max(...off)].map(percent),
  ]
}
