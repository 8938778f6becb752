// Every comparison, in the order in which `npm run bench` lists them and `npm run bench -- all`
// runs them: the headline first, then one knob after the other.
import type { Comparison } from './comparison.ts'
import { ceiling } from './comparisons/ceiling.ts'
import { channels } from './comparisons/channels.ts'
import { compression } from './comparisons/compression.ts'
import { dirtyRate } from './comparisons/dirty-rate.ts'
import { downtime } from './comparisons/downtime.ts'
import { engines } from './comparisons/engines.ts'
import { fairness } from './comparisons/fairness.ts'
import { flush } from './comparisons/flush.ts'
import { headers } from './comparisons/headers.ts'
import { limit } from './comparisons/limit.ts'
import { qemu } from './comparisons/qemu.ts'
import { resume } from './comparisons/resume.ts'
import { scaling } from './comparisons/scaling.ts'
import { singleVsMulti } from './comparisons/single-vs-multi.ts'
import { sparse } from './comparisons/sparse.ts'
import { zeroPages } from './comparisons/zero-pages.ts'
import { zerocopy } from './comparisons/zerocopy.ts'

export const COMPARISONS: readonly Comparison<never>[] = [
  ceiling,
  sparse,
  zerocopy,
  engines,
  flush,
  headers,
  qemu,
  channels,
  zeroPages,
  dirtyRate,
  scaling,
  compression,
  singleVsMulti,
  downtime,
  fairness,
  limit,
  resume,
]

/** A line each: name, how long it takes, what it asks. */
export function listing(): string {
  const width = Math.max(...COMPARISONS.map(({ name }) => name.length))
  const line = (name: string, minutes: number, question: string) =>
    `  ${name.padEnd(width)}  ${String(minutes).padStart(4)} min  ${question}`
  const all = COMPARISONS.reduce((sum, { minutes }) => sum + minutes, 0)
  return [
    'Usage: npm run bench -- <comparison> [options]; --help after a name shows its options.',
    '',
    ...COMPARISONS.map(({ name, minutes, question }) => line(name, minutes, question)),
    line('all', all, 'all of these, one after the other, as they are'),
    '',
    'About so long on two cores; --smoke takes seconds each, and --json prints an object at the end.',
  ].join('\n')
}
