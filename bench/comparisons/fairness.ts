// Whether devices that are never done, and RAM, get equal shares of a limit; and whether every
// device has its turn. One such device beside RAM, and two.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import { plainGuest, verdict } from '../contestants.ts'
import { CHANNELS_RANGE, numberOption, PAIRS_RANGE } from '../options.ts'
import { alternate, median, ratioOf, type Turn, turnName } from '../run.ts'
import { runStaged, type StagedRun } from '../staged.ts'

const MIB = 2 ** 20
const BYTES_PER_SECOND = 32e6
const SHARE_TARGET = { atMost: 0.1 }
const TURN_TARGET = { atMost: 2 }
/** Before the window that counts, milliseconds; and the window. */
const USUAL = { settleMs: 1000, windowMs: 4000, pairs: undefined }
const SMOKE = { settleMs: 200, windowMs: 600, pairs: 1 }
/** More than RAM's share of all that is sent. */
const GUEST_BYTES = { usual: 192 * MIB, smoke: 64 * MIB }

export interface FairnessOptions {
  readonly channels: number
  readonly pairs: number
  readonly smoke?: boolean
}

export const fairness: Comparison<FairnessOptions> = {
  name: 'fairness',
  question: 'do RAM and devices that are never done get equal shares of a limit?',
  minutes: 2,
  declare: (command: Command) =>
    command
      .addOption(numberOption('--channels <n>', 'multifd channels', CHANNELS_RANGE).default(2))
      .addOption(numberOption('--pairs <n>', 'alternating turns', PAIRS_RANGE).default(9))
      .option('--smoke', 'only to see that it works: a second, one turn'),
  run,
}

/** What one window showed. */
interface Window {
  /** Of all that was sent, 0..1: RAM, then each device. */
  readonly shares: readonly number[]
  /** How far the share that is furthest from an equal one is off, of an equal one. */
  readonly worstShare: number
  /** The longest that a device had no turn while others had, in turns of one of those. */
  readonly passesWithoutTurn: number
  readonly bytesPerSecond: number
}

async function run({ options, signal, progress }: Setting<FairnessOptions>): Promise<Findings> {
  const { channels, smoke } = options
  const { settleMs, windowMs, pairs = options.pairs } = smoke ? SMOKE : USUAL
  const stage = { bytesPerSecond: BYTES_PER_SECOND }
  const beside = (unendingDevices: number) => async (turn: Turn) => {
    const guest = plainGuest(smoke ? GUEST_BYTES.smoke : GUEST_BYTES.usual, false)
    const stages = [
      { ...stage, ms: settleMs },
      { ...stage, ms: windowMs },
    ]
    const found = windowOf(await runStaged({ guest, channels, unendingDevices, stages }, signal))
    progress(`${turnName(turn, pairs)}  RAM and ${unendingDevices}: ${percents(found.shares)}`)
    return found
  }
  const turns = { turns: pairs, signal, warmUp: false }
  const { one, two } = await alternate({ one: beside(1), two: beside(2) }, turns)
  const ratios = {
    worstShareOne: ratioOf(one.map(({ worstShare }) => worstShare)),
    worstShareTwo: ratioOf(two.map(({ worstShare }) => worstShare)),
    passesWithoutTurn: ratioOf(two.map(({ passesWithoutTurn }) => passesWithoutTurn)),
  }
  return {
    results: {
      bytesPerSecondMax: BYTES_PER_SECOND,
      channels,
      windowMs,
      one: { shares: medianShares(one), runs: one },
      two: { shares: medianShares(two), runs: two },
    },
    ratios,
    tables: [
      {
        title: `Shares of ${BYTES_PER_SECOND / 1e6} MB/s in ${windowMs / 1e3} s, medians`,
        columns: [
          '',
          'RAM',
          'device 0',
          'device 1',
          'furthest off',
          'passes without a turn',
          'MB/s',
        ],
        rows: [row('RAM and one device', one), row('RAM and two devices', two)],
      },
    ],
    notes: [
      verdict('worstShareOne', ratios.worstShareOne, SHARE_TARGET),
      verdict('worstShareTwo', ratios.worstShareTwo, SHARE_TARGET),
      verdict('passesWithoutTurn', ratios.passesWithoutTurn, TURN_TARGET),
      'worstShare: how far the share furthest from an equal one is off, as a part of an equal one. ' +
        'passesWithoutTurn: passes in which the other device had a turn and this one had none.',
      'RAM is what the multifd channels carried, a device what it gave in its turns. All want to send ' +
        'all the time; the migration is cancelled at the end of the window.',
    ],
  }
}

function windowOf({ readings, turns }: StagedRun): Window {
  const [from, to] = readings.slice(-2)
  if (from === undefined || to === undefined) throw new Error('the source read no counters')
  const devices = to.deviceBytes.map((bytes, device) => bytes - (from.deviceBytes[device] ?? 0))
  const sent = [to.ramBytes - from.ramBytes, ...devices]
  const all = sent.reduce((sum, bytes) => sum + bytes, 0)
  const shares = sent.map((bytes) => bytes / all)
  return {
    shares,
    worstShare: Math.max(...shares.map((share) => Math.abs(share * shares.length - 1))),
    passesWithoutTurn: passesWithoutTurn(turns.slice(from.turns, to.turns), devices.length),
    bytesPerSecond: (all / (to.atMs - from.atMs)) * 1e3,
  }
}

/** In a fair order each other device has one turn at most between two turns of a device. */
export function passesWithoutTurn(turns: readonly number[], devices: number): number {
  let most = 0
  for (let device = 0; device < devices; device += 1) {
    let others = new Map<number, number>()
    for (const turn of turns) {
      if (turn === device) {
        others = new Map()
        continue
      }
      const had = (others.get(turn) ?? 0) + 1
      others.set(turn, had)
      most = Math.max(most, had - 1)
    }
  }
  return most
}

function medianShares(windows: readonly Window[]): Record<string, number> {
  const names = windows[0]?.shares.map((_, place) => (place === 0 ? 'ram' : `device${place - 1}`))
  const shareOf = (place: number) => median(windows.map(({ shares }) => shares[place] ?? 0))
  return Object.fromEntries((names ?? []).map((name, place) => [name, shareOf(place)]))
}

function row(name: string, windows: readonly Window[]): string[] {
  const { ram, device0, device1 } = medianShares(windows)
  const percent = (share?: number) => (share === undefined ? '' : `${(share * 100).toFixed(1)} %`)
  const middle = (of: (window: Window) => number) => median(windows.map(of))
  return [
    ...[name, percent(ram), percent(device0), percent(device1)],
    percent(middle(({ worstShare }) => worstShare)),
    String(Math.max(...windows.map((window) => window.passesWithoutTurn))),
    (middle(({ bytesPerSecond }) => bytesPerSecond) / 1e6).toFixed(2),
  ]
}

const percents = (shares: readonly number[]) =>
  shares.map((share) => `${(share * 100).toFixed(1)} %`).join(', ')
