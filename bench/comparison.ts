// What a comparison is to the command line: a named question with options of its own.
import type { Command } from 'commander'
import type { Ratio } from './run.ts'

/** What the command line gives to every comparison. */
export interface Setting<Options> {
  readonly options: Options
  /** Aborted by Ctrl-C; every child ends with it. */
  readonly signal: AbortSignal
  /** Progress for people; goes to stderr. */
  readonly progress: (line: string) => void
}

/** A table of the report: one row per contestant or per turn. */
export interface Table {
  readonly title: string
  readonly columns: readonly string[]
  readonly rows: readonly (readonly string[])[]
}

/** Something that this machine, or its user, does not let a comparison measure. */
export interface Skipped {
  readonly what: string
  readonly reason: string
}

/** What a comparison found. */
export interface Findings {
  /** Everything measured, for machines: settings and every single turn. */
  readonly results: Record<string, unknown>
  readonly ratios: Record<string, Ratio>
  /** The same for people. */
  readonly tables: readonly Table[]
  /** Sentences a reader must know beside the figures. */
  readonly notes: readonly string[]
  /** What the bytes travelled over; loopback unless given. */
  readonly interface?: string
  /** The QEMU that took part, as it says its version. */
  readonly qemu?: string
  /** Never left out in silence; nothing unless given. */
  readonly skipped?: readonly Skipped[]
}

export interface Comparison<Options> {
  readonly name: string
  /** The question it answers, one sentence. */
  readonly question: string
  /** How long it takes as it is, on two cores; minutes. */
  readonly minutes: number
  /** Adds its own options to its command. */
  declare(command: Command): Command
  run(setting: Setting<Options>): Promise<Findings>
}
