// What a side measures about its own process: CPU time of the process and of the JavaScript thread,
// resident memory. It reads the kernel's account, not the library's, so that the library cannot
// flatter itself.
import { readFileSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** CPU time of the JavaScript thread (the process's main thread) so far, seconds. */
export function jsThreadCpuSeconds(): number {
  const [onCpu = '0'] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')
  const nanoseconds = Number(onCpu)
  if (nanoseconds > 0) return nanoseconds / 1e9
  // Kernels without schedstat count ticks of 10 ms: field 14 and 15, after the name in brackets.
  const stat = readFileSync(`/proc/self/task/${process.pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** CLOCK_MONOTONIC, comparable between the processes of one host; milliseconds. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/** A `Name:   123 kB` line of a file in /proc, as bytes; 0 when it is not there. */
export function kibibyteLine(path: string, name: string): number {
  const found = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync(path, 'utf8'))
  return Number(found?.[1] ?? 0) * 1024
}

/** Bytes of this process that huge pages back. */
export function hugePageBytes(): number {
  return kibibyteLine('/proc/self/smaps_rollup', 'AnonHugePages')
}

/**
 * Collects what the preparation left, and lets V8's overdue housekeeping run: filling gigabytes
 * keeps the event loop busy for seconds, and the collection that waits behind it would be counted
 * as the migration's.
 */
export async function settle(): Promise<void> {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  for (let turn = 0; turn < 3; turn++) {
    collect()
    await nextTurn()
  }
}

/** Measures one span of this process. */
export class Meter {
  readonly #startedMs = performance.now()
  readonly #cpu = process.cpuUsage()
  readonly #jsThread = jsThreadCpuSeconds()

  read(): { seconds: number; cpuSeconds: number; jsThreadCpuSeconds: number } {
    const seconds = (performance.now() - this.#startedMs) / 1e3
    const { user, system } = process.cpuUsage(this.#cpu)
    return {
      seconds,
      cpuSeconds: (user + system) / 1e6,
      jsThreadCpuSeconds: jsThreadCpuSeconds() - this.#jsThread,
    }
  }
}

/** How often a CpuLog looks, milliseconds. */
const LOOK_INTERVAL_MS = 5

/** CPU time of this process against the clock, for spans whose ends are known only afterwards. */
export class CpuLog {
  readonly #looks: { readonly ms: number; readonly cpuSeconds: number }[] = []
  readonly #timer: NodeJS.Timeout

  constructor() {
    this.#look()
    this.#timer = setInterval(() => this.#look(), LOOK_INTERVAL_MS)
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#look()
  }

  /** Between two readings of performance.now(); after `stop`. */
  span(fromMs: number, toMs: number): { seconds: number; cpuSeconds: number } {
    const cpuSeconds = this.#at(toMs) - this.#at(fromMs)
    return { seconds: (toMs - fromMs) / 1e3, cpuSeconds }
  }

  #at(ms: number): number {
    const look = this.#looks.findLast((one) => one.ms <= ms) ?? this.#looks[0]
    return look?.cpuSeconds ?? Number.NaN
  }

  #look(): void {
    const { user, system } = process.cpuUsage()
    this.#looks.push({ ms: performance.now(), cpuSeconds: (user + system) / 1e6 })
  }
}

/**
 * The most private memory this process had beyond what it had at construction, looked at every 20
 * ms. Meaningful only where the guest's RAM is shared memory and so counted elsewhere (memfd).
 */
export class MemoryWatch {
  readonly #before = kibibyteLine('/proc/self/status', 'RssAnon')
  readonly #timer: NodeJS.Timeout
  #peakBytes = 0

  constructor() {
    this.#timer = setInterval(() => this.#look(), 20)
  }

  /** Ends the watch; bytes. */
  stop(): number {
    clearInterval(this.#timer)
    this.#look()
    return this.#peakBytes
  }

  #look(): void {
    const grown = kibibyteLine('/proc/self/status', 'RssAnon') - this.#before
    this.#peakBytes = Math.max(this.#peakBytes, grown)
  }
}
