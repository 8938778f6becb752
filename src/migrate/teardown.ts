// First error wins: the race between a migration's next step and the first thing that breaks it,
// and a record of what broke after that.

import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { type Side, trace } from '../kit/trace.ts'

export class FirstError {
  readonly #side: Side
  readonly #failed: Deferred<never> = deferred()
  /** Steps that are waited for. Racing each with one promise would keep a trace of all of them. */
  readonly #waiting = new Set<(error: MultifdError) => void>()
  readonly #outer: FirstError | undefined
  readonly #inner = new Set<FirstError>()
  #error: MultifdError | undefined

  /** @param outer what ends more than this: its first error is this one's, too. */
  constructor(side: Side, outer?: FirstError) {
    this.#side = side
    this.#outer = outer
    if (outer === undefined) return
    outer.#inner.add(this)
    if (outer.#error !== undefined) this.set(outer.#error)
  }

  get error(): MultifdError | undefined {
    return this.#error
  }

  /** Rejects with the first error as soon as there is one. */
  get promise(): Promise<never> {
    return this.#failed.promise
  }

  /** Records an error: the first becomes the migration's, the others go to the trace. */
  set(error: MultifdError): void {
    if (this.#error === undefined) {
      this.#error = error
      if (this.#outer !== undefined) this.#outer.#inner.delete(this)
      this.#failed.reject(error)
      for (const reject of this.#waiting) reject(error)
      for (const inner of this.#inner) inner.set(error)
      return
    }
    const { code, message } = error
    trace('multifd:error', () => ({ side: this.#side, code, message }))
  }

  /** `step`, unless something fails before it is done. */
  async unless<T>(step: Promise<T>): Promise<T> {
    if (this.#error !== undefined) return await Promise.race([step, this.#failed.promise])
    let reject: (error: MultifdError) => void = () => {}
    const failed = new Promise<never>((_resolve, onError) => {
      reject = onError
    })
    this.#waiting.add(reject)
    try {
      return await Promise.race([step, failed])
    } finally {
      this.#waiting.delete(reject)
    }
  }

  /** Resolves after so many milliseconds, unless something fails before. */
  async sleep(waitMs: number): Promise<void> {
    const { promise, resolve } = deferred()
    const timer = setTimeout(resolve, waitMs)
    try {
      await this.unless(promise)
    } finally {
      clearTimeout(timer)
    }
  }

  /** Ties the caller's signal to this; returns what detaches it. */
  follow(signal: AbortSignal | undefined): () => void {
    if (signal === undefined) return () => {}
    const abort = (): void => {
      this.set(cancelled(signal.reason))
    }
    if (signal.aborted) abort()
    else signal.addEventListener('abort', abort, { once: true })
    return () => signal.removeEventListener('abort', abort)
  }
}

export function cancelled(cause?: unknown): MultifdError {
  return new MultifdError('ERR_MULTIFD_ABORTED', 'the migration was cancelled by its caller', {
    cause,
  })
}

/** Whatever was thrown, as the library's error. */
export function asMultifdError(thrown: unknown): MultifdError {
  if (thrown instanceof MultifdError) return thrown
  const message = thrown instanceof Error ? thrown.message : String(thrown)
  return new MultifdError('ERR_MULTIFD_STATE', `the migration failed: ${message}`, {
    cause: thrown,
  })
}
