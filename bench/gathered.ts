// What a comparison of contestants has found, gathered course by course: results, ratios, tables
// and notes, with what a reader must know of the runs at the end. It judges nothing.
import type { Findings, Table } from './comparison.ts'
import { type Runs, type TurnOptions, turnNotes } from './contestants.ts'
import type { MigrationRun } from './migration.ts'
import type { Ratio } from './run.ts'

/** What one course adds. */
export interface Part {
  /** Joined with those of the other courses. */
  readonly results: Record<string, unknown>
  readonly ratios: Record<string, Ratio>
  readonly table: Table
  readonly notes: readonly string[]
  readonly runs: Runs<string>
}

export class Gathered {
  readonly #results: Record<string, unknown>
  readonly #ratios: Record<string, Ratio> = {}
  readonly #tables: Table[] = []
  readonly #notes: string[] = []
  readonly #runs: MigrationRun[] = []

  /** `results` are what stands above those of all courses, such as sizes. */
  constructor(results: Record<string, unknown>) {
    this.#results = { ...results }
  }

  get runs(): readonly MigrationRun[] {
    return this.#runs
  }

  add({ results, ratios, table, notes, runs }: Part): this {
    Object.assign(this.#results, results)
    Object.assign(this.#ratios, ratios)
    this.#tables.push(table)
    this.#notes.push(...notes)
    this.#runs.push(...Object.values(runs).flat())
    return this
  }

  /** With ratios and notes of the whole in front. */
  findings(
    options: TurnOptions,
    whole: Pick<Findings, 'interface' | 'skipped' | 'qemu'> & Partial<Findings> = {},
  ): Findings {
    const { ratios = {}, notes = [], ...rest } = whole
    return {
      results: this.#results,
      tables: this.#tables,
      ...rest,
      ratios: { ...ratios, ...this.#ratios },
      notes: [...notes, ...this.#notes, ...turnNotes(options, this.#runs)],
    }
  }
}
