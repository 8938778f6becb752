// Builds and runs bench/native/headers.cc: packets of a header and a zero-copied body over one
// connection, by a pair of processes, each on a core of its own. It knows nothing of the library.
import { readFileSync } from 'node:fs'
import { Child } from './child.ts'
import { buildNative } from './native-program.ts'
import type { Path } from './path.ts'

/** How the header before each body is sent; headers.cc says what each means. */
export const WAYS = ['none', 'plain', 'more', 'one-call', 'flush'] as const
export type Way = (typeof WAYS)[number]

export interface HeadersOptions {
  readonly path: Path
  readonly way: Way
  /** Bytes of all bodies together, a multiple of `bodyBytes`. */
  readonly memoryBytes: number
  /** Of each body, a multiple of 4096. */
  readonly bodyBytes: number
  /** Of each header, a multiple of 8. */
  readonly headerBytes: number
  /** SO_SNDBUF and SO_RCVBUF; 0 leaves them to the kernel's own tuning. */
  readonly socketBufferBytes: number
  /** When the error queue is read: after each packet, or when everything has arrived. */
  readonly reap: 'each' | 'end'
  /** Compare every header and body at the receiver, after the clock has stopped. */
  readonly verify: boolean
  /** What the receiver expects, if not what is sent; for tests of the comparison itself. */
  readonly expectedSeed?: number
}

/** What the sending side counted. */
export interface HeadersSent {
  /** From the connect to the receiver's answer, everything released. */
  readonly seconds: number
  readonly cpuSeconds: number
  readonly packets: number
  readonly sendCalls: number
  /** Reads of the error queue, and polls for it. */
  readonly otherCalls: number
  readonly zeroCopyCalls: number
  readonly notifications: number
  /** The most zero-copy calls that one notification released. */
  readonly widestRange: number
  /** ENOBUFS. */
  readonly refusals: number
  /** Released, and not copied by the kernel. */
  readonly zeroCopyBytes: number
  /** Released, and copied after all. */
  readonly copiedBytes: number
  readonly unreleasedHighBytes: number
}

export interface HeadersRun extends HeadersSent {
  readonly receiverCpuSeconds: number
  /** Everything was compared, and is what was sent, in order. */
  readonly verified: boolean
}

/** Runs it. Rejects when a side fails, or when what arrived is not what was sent. */
export async function runHeaders(
  options: HeadersOptions,
  { signal }: { signal: AbortSignal },
): Promise<HeadersRun> {
  const program = await buildNative('headers')
  const { path, expectedSeed = 1 } = options
  const cores = allowedCores()
  const start = (side: 'source' | 'destination', args: readonly string[]) => {
    const core = cores[side === 'source' ? 0 : 1]
    const pin = core === undefined ? [] : ['taskset', '-c', String(core)]
    const [file = '', ...rest] = path[side].command([...pin, program, ...args])
    return Child.start(`the ${side}`, file, rest, { signal })
  }
  const common = [
    ...['--memory', String(options.memoryBytes), '--body', String(options.bodyBytes)],
    ...['--header', String(options.headerBytes), '--way', options.way],
    ...['--socket-buffer', String(options.socketBufferBytes)],
    ...['--address', path.destination.address],
  ]
  const verify = ['--verify', options.verify ? '1' : '0', '--seed', String(expectedSeed)]
  await using receiver = await start('destination', ['receive', ...common, ...verify])
  const { port } = await receiver.expect<{ port: number }>('ready', { signal })
  const sending = [...common, '--port', String(port), '--reap', options.reap]
  await using sender = await start('source', ['send', ...sending])
  await sender.expect('ready', { signal })
  sender.say('go')
  const { event: _, ...sent } = await sender.expect<HeadersSent & { event: string }>('done', {
    signal,
  })
  const received = await receiver.expect<{ cpuSeconds: number; verified: boolean }>('done', {
    signal,
  })
  return { ...sent, receiverCpuSeconds: received.cpuSeconds, verified: received.verified }
}

// Two cores that this process may use, one per side; none where it may use but one.
function allowedCores(): number[] {
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
  const cores = (list ?? '').split(',').flatMap((range) => {
    const [from = Number.NaN, to = from] = range.split('-').map(Number)
    return to > from ? [from, from + 1] : [from]
  })
  return cores.length < 2 ? [] : cores.slice(0, 2)
}
