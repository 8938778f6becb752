// The guest that writes: a worker thread that rewrites guest RAM page after page at a given rate.
// Its CPU time is measured by itself, so that it can be left out of the migration's. One half of
// this file is the worker, the other what the source holds of it.
import { readFileSync } from 'node:fs'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { GuestMemory } from '../../src/index.ts'
import { BLOCK_NAME } from './guest.ts'
import type { GuestWrites } from './side-options.ts'

const PAGE_BYTES = 4096
/** Pages between two looks at the clock and at the flags. */
const BURST_PAGES = 16
/** What a writer that could not keep up makes good for, seconds; the rest it never writes. */
const DEBT_SECONDS = 0.05
/** Cells of the flags: what is asked for, what is so. */
const ASKED = 0
const STATE = 1
const RUNNING = 1
const STOPPED = 2

interface Order {
  readonly token: number
  readonly flags: Int32Array<SharedArrayBuffer>
  readonly bytesPerSecond: number
}

/** Writes from `start` to `stop`. */
export class Writer {
  readonly #flags: Int32Array<SharedArrayBuffer>
  readonly #writes: Promise<GuestWrites>

  private constructor(memory: GuestMemory, bytesPerSecond: number) {
    this.#flags = new Int32Array(new SharedArrayBuffer(8))
    const order: Order = { token: memory.token, flags: this.#flags, bytesPerSecond }
    const worker = new Worker(new URL(import.meta.url), { workerData: order })
    this.#writes = new Promise((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
    })
    this.#writes.catch(() => {}) // whoever asks for them hears of it
  }

  /** Returns when it writes. */
  static async start(memory: GuestMemory, bytesPerSecond: number): Promise<Writer> {
    const writer = new Writer(memory, bytesPerSecond)
    const failed = writer.#writes.then(() => {})
    while (Atomics.load(writer.#flags, STATE) !== RUNNING) {
      await Promise.race([failed, new Promise((resolve) => setTimeout(resolve, 1))])
    }
    return writer
  }

  /** When it returns, nothing is written any more: it waits for a burst of a few pages at most. */
  stop(): void {
    Atomics.store(this.#flags, ASKED, STOPPED)
    Atomics.notify(this.#flags, ASKED)
    while (Atomics.load(this.#flags, STATE) !== STOPPED) {
      Atomics.wait(this.#flags, STATE, RUNNING)
    }
  }

  /** After `stop`. */
  writes(): Promise<GuestWrites> {
    return this.#writes
  }
}

if (!isMainThread) write(workerData as Order)

function write({ token, flags, bytesPerSecond }: Order): void {
  const view = GuestMemory.fromToken(token).view(BLOCK_NAME)
  const words = new Float64Array(view.buffer, view.byteOffset, view.length / 8)
  const cpuBefore = threadCpuSeconds()
  const startedMs = performance.now()
  let fromMs = startedMs
  let owed = 0
  let pages = 0
  Atomics.store(flags, STATE, RUNNING)
  while (Atomics.load(flags, ASKED) !== STOPPED) {
    const nowMs = performance.now()
    const most = (DEBT_SECONDS * bytesPerSecond) / PAGE_BYTES
    owed = Math.min(owed + (((nowMs - fromMs) / 1e3) * bytesPerSecond) / PAGE_BYTES, most)
    fromMs = nowMs
    if (owed < 1) Atomics.wait(flags, ASKED, 0, 1)
    for (let page = 0; page < BURST_PAGES && owed >= 1; page++, owed--) {
      words[((pages * PAGE_BYTES) % view.length) / 8] = pages + nowMs
      pages += 1
    }
  }
  Atomics.store(flags, STATE, STOPPED)
  Atomics.notify(flags, STATE)
  const seconds = (performance.now() - startedMs) / 1e3
  const cpuSeconds = threadCpuSeconds() - cpuBefore
  const writes: GuestWrites = { bytesPerSecond: (pages * PAGE_BYTES) / seconds, cpuSeconds }
  parentPort?.postMessage(writes)
}

function threadCpuSeconds(): number {
  const [nanoseconds] = readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')
  return Number(nanoseconds) / 1e9
}
