// The source's hold on the destination process: starts it, hears its reports, and ends it whatever
// happened. It knows nothing of guests or migrations.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { type DestinationPlan, type DestinationReport, StartError } from './nodes.ts'

/** A destination that was let go of and still runs after so long is killed. */
const LEAVE_LIMIT_MS = 500

export class DestinationNode implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #exited: Promise<unknown>
  readonly #gone = new AbortController()
  readonly #reports: DestinationReport[] = []
  #wake: () => void = () => {}
  #ended: StartError | undefined

  constructor(plan: DestinationPlan) {
    // dist/ holds destination.js beside this file.
    const path = fileURLToPath(new URL('./destination.js', import.meta.url))
    this.#child = fork(path, [JSON.stringify(plan)])
    this.#exited = once(this.#child, 'exit').catch(() => {})
    this.#child.on('message', (said) => {
      this.#reports.push(said as DestinationReport)
      this.#wake()
    })
    this.#child.on('error', (error) => this.#end(`could not be started: ${error.message}`))
    this.#child.on('exit', (code, signal) => {
      this.#end(signal === null ? `ended with exit code ${code}` : `was killed (${signal})`)
    })
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  /** Aborts when the process is gone or has failed; the reason is the error. */
  get gone(): AbortSignal {
    return this.#gone.signal
  }

  /**
   * The next report, which must be of this kind. Rejects when the destination failed or is gone, or
   * with the signal's reason.
   */
  async next<K extends DestinationReport['kind']>(
    kind: K,
    signal?: AbortSignal,
  ): Promise<Extract<DestinationReport, { kind: K }>> {
    for (;;) {
      signal?.throwIfAborted()
      const said = this.#reports.shift()
      if (said?.kind === kind) return said as Extract<DestinationReport, { kind: K }>
      if (said?.kind === 'failed') throw new StartError(said.code, said.reason)
      if (said !== undefined) throw new Error(`the destination said ${said.kind}, not ${kind}`)
      if (this.#ended !== undefined) throw this.#ended
      await new Promise<void>((resolve) => {
        this.#wake = resolve
        signal?.addEventListener('abort', () => resolve(), { once: true })
      })
    }
  }

  /** Why the destination failed or is gone, if that shows within `limitMs`. */
  async explanation(limitMs: number): Promise<StartError | undefined> {
    const limit = AbortSignal.timeout(limitMs)
    return await this.next('failed', limit).then(
      ({ code, reason }) => new StartError(code, reason),
      (thrown: unknown) => (thrown instanceof StartError ? thrown : undefined),
    )
  }

  /** Lets go of the process, which then ends by itself; by force if it does not. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.connected) this.#child.disconnect()
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), LEAVE_LIMIT_MS)
    if (this.#child.pid !== undefined && this.#ended === undefined) await this.#exited
    clearTimeout(timer)
  }

  #end(how: string): void {
    this.#ended ??= new StartError(
      'ERR_EXAMPLE_DESTINATION',
      `the destination process ${how} before it was done`,
    )
    this.#gone.abort(this.#ended)
    this.#wake()
  }
}
