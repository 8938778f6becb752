// Samples of a migration of any length in bounded room: when there are too many, neighbours become
// one, and so they go on becoming. Pure.

import type { Sample } from './migration-record.ts'

/** As many as a plot can show. */
const SAMPLES_MAX = 120

export class SampleList {
  #samples: Sample[] = []
  /** Bytes of rates that stand in no sample yet, and since when. */
  #pending: Sample[] = []
  #width = 1

  add(sample: Sample): void {
    this.#pending.push(sample)
    const last = this.#pending[0]?.status !== sample.status
    if (this.#pending.length < this.#width && !last) return
    this.#samples.push(joined(this.#pending, this.#samples.at(-1)?.elapsedMs ?? 0))
    this.#pending = []
    if (this.#samples.length < SAMPLES_MAX) return
    this.#samples = halved(this.#samples)
    this.#width *= 2
  }

  get samples(): readonly Sample[] {
    if (this.#pending.length === 0) return this.#samples
    return [...this.#samples, joined(this.#pending, this.#samples.at(-1)?.elapsedMs ?? 0)]
  }
}

/** At most so many samples. */
export function thinned(samples: readonly Sample[], most: number): readonly Sample[] {
  return samples.length <= most ? samples : thinned(halved(samples), most)
}

/** At most so many series: neighbours become one, e.g. "channel 0 to channel 3". */
export function grouped(samples: readonly Sample[], most: number): readonly Sample[] {
  const names = [...new Set(samples.flatMap(({ series }) => Object.keys(series)))]
  if (names.length <= most) return samples
  const size = Math.ceil(names.length / most)
  const groups: string[][] = []
  for (let i = 0; i < names.length; i += size) groups.push(names.slice(i, i + size))
  return samples.map((sample) => {
    const sums = groups.map((group) => {
      const sum = group.reduce((total, name) => total + (sample.series[name] ?? 0), 0)
      return [group.length === 1 ? group[0] : `${group[0]} to ${group.at(-1)}`, sum] as const
    })
    return { ...sample, series: Object.fromEntries(sums) }
  })
}

function halved(samples: readonly Sample[]): Sample[] {
  const pairs: Sample[] = []
  for (let i = 0; i < samples.length; i += 2) {
    pairs.push(joined(samples.slice(i, i + 2), samples[i - 1]?.elapsedMs ?? 0))
  }
  return pairs
}

/** One sample for some: the last one's state, and rates over the whole time. */
function joined(samples: readonly Sample[], beganMs: number): Sample {
  const last = samples.at(-1) as Sample
  if (samples.length === 1) return last
  const spanMs = Math.max(last.elapsedMs - beganMs, 1e-6)
  const mean = (rate: (sample: Sample) => number): number => {
    let beforeMs = beganMs
    let sum = 0
    for (const sample of samples) {
      sum += rate(sample) * (sample.elapsedMs - beforeMs)
      beforeMs = sample.elapsedMs
    }
    return sum / spanMs
  }
  const names = Object.keys(last.series)
  return {
    ...last,
    bytesPerSecond: mean(({ bytesPerSecond }) => bytesPerSecond),
    series: Object.fromEntries(
      names.map((name) => [name, mean(({ series }) => series[name] ?? 0)]),
    ),
  }
}
