// Starts test/support/destination-child.ts and waits for what it reports.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { ChildOptions, ChildReport } from './destination-child.ts'

/** Node options that make child processes and worker threads run .ts files. */
export const TYPESCRIPT_ARGUMENTS = [
  '--import',
  new URL('./typescript-loader.mjs', import.meta.url).href,
]

export class DestinationChild implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #reports: ChildReport[] = []
  readonly #exited: Promise<unknown>

  constructor(options: ChildOptions) {
    const script = fileURLToPath(new URL('./destination-child.ts', import.meta.url))
    this.#child = fork(script, [JSON.stringify(options)], { execArgv: TYPESCRIPT_ARGUMENTS })
    this.#child.on('message', (report: ChildReport) => this.#reports.push(report))
    this.#exited = once(this.#child, 'exit')
  }

  /** The report of this kind; rejects if the child ends without it. */
  async report<K extends ChildReport['kind']>(kind: K): Promise<ChildReport & { kind: K }> {
    for (;;) {
      const found = this.#reports.find((report) => report.kind === kind)
      if (found !== undefined) return found as ChildReport & { kind: K }
      const ended = this.#exited.then(() => 'ended')
      if ((await Promise.race([once(this.#child, 'message'), ended])) !== 'ended') continue
      throw new Error(`the child ended without "${kind}": ${JSON.stringify(this.#reports)}`)
    }
  }

  /** SIGSTOP: the kernel still takes connections and bytes, as far as its buffers go. */
  freeze(): void {
    this.#child.kill('SIGSTOP')
  }

  /** SIGKILL, which also ends a frozen one. */
  kill(): void {
    this.#child.kill('SIGKILL')
  }

  /** Resolves when it has ended and nothing of it is left here. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.kill()
    await this.#exited
    if (this.#child.connected) await once(this.#child, 'disconnect')
  }
}
