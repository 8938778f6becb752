// What the doctor says of one thing, and the few words it says it with.

/**
 * `ok`: nothing to do. `warning`: it works, but slower or less than it could. `missing`: it is not
 * to be had here; a migration does without, unless the finding is `required`.
 */
export type Status = 'ok' | 'warning' | 'missing'

export interface Finding {
  /** Stable, for programs; of an interface `zero-copy:eth0`. */
  readonly id: string
  readonly title: string
  readonly status: Status
  /** What was found, for people. */
  readonly value: string
  /** The same for programs; null: no limit, or not known. */
  readonly details: Readonly<Record<string, string | number | boolean | null>>
  /** What it means for a migration: a sentence. */
  readonly meaning: string
  /** A command or a setting that changes it. */
  readonly fix?: string
  /** No migration works without it. */
  readonly required?: true
}

const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']

/** 8388608 -> '8 MiB'; three digits at most behind which nobody looks. */
export function showBytes(bytes: number | undefined): string {
  if (bytes === undefined) return 'unknown'
  if (bytes === Number.POSITIVE_INFINITY) return 'no limit'
  const steps = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), UNITS.length - 1)
  const scaled = bytes / 1024 ** steps
  return `${Number(scaled.toFixed(scaled < 10 ? 1 : 0))} ${UNITS[steps]}`
}

/** A number as JSON has it. */
export function orNull(value: number | undefined): number | null {
  return value === undefined || !Number.isFinite(value) ? null : value
}

/** A sentence begins with a capital letter; the probes' reasons do not. */
export function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}`
}
