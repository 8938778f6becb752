// How a report writes amounts: three digits, and the unit that fits. Powers of ten, as rates of
// networks have them. Pure.

/** A unit of a chart's axis or of a figure: what a value is divided by, and its name. */
export interface Unit {
  readonly divisor: number
  readonly name: string
}

const BYTES: readonly Unit[] = [
  { divisor: 1, name: 'B' },
  { divisor: 1e3, name: 'kB' },
  { divisor: 1e6, name: 'MB' },
  { divisor: 1e9, name: 'GB' },
  { divisor: 1e12, name: 'TB' },
]
const TIMES: readonly Unit[] = [
  { divisor: 1, name: 'ms' },
  { divisor: 1e3, name: 's' },
  { divisor: 60e3, name: 'min' },
]
/** Below this many of the next larger unit the smaller one reads better. */
const SECONDS_FROM_MS = 1_000
const MINUTES_FROM_MS = 300_000

/** The unit in which the largest of some byte counts is at least 1. */
export function unitOfBytes(largest: number): Unit {
  return BYTES.findLast(({ divisor }) => largest >= divisor) ?? (BYTES[0] as Unit)
}

export function unitOfRate(largest: number): Unit {
  const { divisor, name } = unitOfBytes(largest)
  return { divisor, name: `${name}/s` }
}

export function unitOfTime(largestMs: number): Unit {
  const index = largestMs < SECONDS_FROM_MS ? 0 : largestMs < MINUTES_FROM_MS ? 1 : 2
  return TIMES[index] as Unit
}

/** Three digits that count; whole thousands have all of theirs. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return '–'
  if (Math.abs(value) >= 999.5) return Math.round(value).toLocaleString('en-US')
  const rounded = Number(value.toPrecision(3))
  if (rounded === 0) return '0'
  const magnitude = Math.floor(Math.log10(Math.abs(rounded)))
  return rounded.toFixed(Math.min(2 - magnitude, 4))
}

export function inUnit(value: number, { divisor, name }: Unit): string {
  return `${digits(value / divisor)} ${name}`
}

/** For narrow places: two digits that count, and no fractions of tens. */
export function shortBytesText(bytes: number): string {
  const { divisor, name } = unitOfBytes(bytes)
  const value = bytes / divisor
  return `${value < 9.95 ? Number(value.toFixed(1)) : Math.round(value)} ${name}`
}

export const bytesText = (bytes: number): string => inUnit(bytes, unitOfBytes(bytes))
export const rateText = (perSecond: number): string => inUnit(perSecond, unitOfRate(perSecond))
export const timeText = (ms: number): string => inUnit(ms, unitOfTime(ms))
export const percentText = (share: number): string =>
  `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`
