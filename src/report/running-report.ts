// A report in the making, for a command with `--report FILE`: whatever could keep it from being
// written is tried before the migration begins, and nothing that happens to it afterwards may harm
// the migration.

import type { MigrationRecord, Outcome } from './migration-record.ts'
import { MigrationRecorder } from './recorder.ts'
import { ReportFile } from './report-file.ts'

export interface Subject {
  /** Of the page. */
  readonly title: string
  /** What moves from where to where; a sentence. */
  readonly lead: string
  /** What the bytes travel over: a URI, or a word like "loopback". */
  readonly over: string
}

export class RunningReport implements AsyncDisposable {
  /** To be handed every progress event. */
  readonly recorder: MigrationRecorder
  readonly #file: ReportFile
  readonly #render: (record: MigrationRecord) => string
  readonly #warn: (sentence: string) => void

  private constructor(
    file: ReportFile,
    subject: Subject,
    render: (record: MigrationRecord) => string,
    warn: (sentence: string) => void,
  ) {
    this.#file = file
    this.#render = render
    this.#warn = warn
    this.recorder = new MigrationRecorder(subject)
  }

  /**
   * Begins one, or none without a path. `warn` gets a sentence if it could not be written in the
   * end.
   * @throws RangeError, as for any option: the path is not one that can be written.
   */
  static async open(
    path: string | undefined,
    subject: Subject,
    warn: (sentence: string) => void,
  ): Promise<RunningReport | undefined> {
    if (path === undefined) return undefined
    const file = await ReportFile.open(path)
    // Drawing takes a fifth of a second to load: only who wants a report pays.
    const { migrationReport } = await import('./migration-report.ts')
    return new RunningReport(file, subject, migrationReport, warn)
  }

  async completed(
    outcome: Outcome,
    more?: Parameters<MigrationRecorder['record']>[1],
  ): Promise<void> {
    await this.#write(() => this.recorder.record(outcome, more))
  }

  async failed(error: unknown, status: 'failed' | 'cancelled' | 'unknown'): Promise<void> {
    await this.#write(() => this.recorder.failed(error, status))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.recorder[Symbol.dispose]()
    await this.#file[Symbol.asyncDispose]()
  }

  async #write(record: () => MigrationRecord): Promise<void> {
    try {
      await this.#file.write(this.#render(record()))
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      this.#warn(`the report ${this.#file.path} could not be written: ${why}`)
    }
  }
}
