// Builds what is in bench/native/ and runs its ceiling.cc, the plain C++ loop. Built on demand into
// build-bench/, apart from the library's own build, and again whenever its source is newer.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, rename, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { Child } from './child.ts'

const COMPILER = process.env.CXX ?? 'g++'
let builds = 0

/** One transfer of the plain loop. */
export interface CeilingOptions {
  readonly memoryBytes: number
  readonly channels: number
  /** Bytes of one send() and of one recv(). */
  readonly sendSizeBytes: number
  /** SO_SNDBUF and SO_RCVBUF; 0 leaves them to the kernel's own tuning. */
  readonly socketBufferBytes: number
  /** TCP_CONGESTION of both ends, e.g. `reno`; `system` leaves the kernel's default. */
  readonly congestionControl: string
  readonly hugePages: boolean
}

export interface CeilingResult {
  readonly seconds: number
  /** CPU time of both processes over the span, seconds. */
  readonly cpuSeconds: number
  readonly sourceHugePageBytes: number
  readonly destinationHugePageBytes: number
}

/** Compiles the plain loop if need be; its path. */
export function buildCeiling(): Promise<string> {
  return buildNative('ceiling')
}

/** Compiles `bench/native/<name>.cc` if need be; the program's path. */
export async function buildNative(name: string): Promise<string> {
  const root = packageRoot()
  const source = join(root, `bench/native/${name}.cc`)
  const program = join(root, `build-bench/${name}`)
  const [from, built] = await Promise.all([stat(source), stat(program).catch(() => undefined)])
  if (built !== undefined && built.mtimeMs > from.mtimeMs) return program
  await mkdir(dirname(program), { recursive: true })
  const unfinished = `${program}.${process.pid}.${builds++}`
  const args = ['-O2', '-std=c++20', '-pthread', '-o', unfinished, source]
  try {
    await promisify(execFile)(COMPILER, args)
  } catch (cause) {
    throw new Error(`compiling ${source} with ${COMPILER} failed; it needs build-essential`, {
      cause,
    })
  }
  await rename(unfinished, program) // another one may be building at the same time
  return program
}

/** One transfer, by a pair of processes of its own. */
export async function runCeiling(
  program: string,
  options: CeilingOptions,
  { signal }: { signal: AbortSignal },
): Promise<CeilingResult> {
  const { memoryBytes, channels, sendSizeBytes, socketBufferBytes, hugePages } = options
  const common = [
    ...['--memory', String(memoryBytes), '--channels', String(channels)],
    ...['--send-size', String(sendSizeBytes), '--huge-pages', hugePages ? '1' : '0'],
    ...['--socket-buffer', String(socketBufferBytes)],
    ...['--congestion-control', options.congestionControl],
  ]
  await using receiver = await Child.start('the plain receiver', program, ['receive', ...common], {
    signal,
  })
  const listening = await receiver.expect<{ port: number; hugePageBytes: number }>('ready', {
    signal,
  })
  const args = ['send', ...common, '--port', String(listening.port)]
  await using sender = await Child.start('the plain sender', program, args, { signal })
  const filled = await sender.expect<{ hugePageBytes: number }>('ready', { signal })
  sender.say('go')
  const [sent, received] = await Promise.all([
    sender.expect<{ seconds: number; cpuSeconds: number }>('done', { signal }),
    receiver.expect<{ cpuSeconds: number }>('done', { signal }),
  ])
  return {
    seconds: sent.seconds,
    cpuSeconds: sent.cpuSeconds + received.cpuSeconds,
    sourceHugePageBytes: filled.hugePageBytes,
    destinationHugePageBytes: listening.hugePageBytes,
  }
}

/** One thread, memory to memory; bytes per second. */
export async function runMemcpy(
  program: string,
  { memoryBytes, hugePages }: Pick<CeilingOptions, 'memoryBytes' | 'hugePages'>,
  { signal }: { signal: AbortSignal },
): Promise<number> {
  const args = ['memcpy', '--memory', String(memoryBytes), '--huge-pages', hugePages ? '1' : '0']
  await using child = await Child.start('memcpy', program, args, { signal })
  const { seconds } = await child.expect<{ seconds: number }>('done', { signal })
  return memoryBytes / seconds
}

/** One thread that only reads resident zeros; bytes per second of its CPU time. */
export async function runRead(
  program: string,
  { memoryBytes, hugePages }: Pick<CeilingOptions, 'memoryBytes' | 'hugePages'>,
  { signal }: { signal: AbortSignal },
): Promise<number> {
  const args = ['read', '--memory', String(memoryBytes), '--huge-pages', hugePages ? '1' : '0']
  await using child = await Child.start('read', program, args, { signal })
  const { cpuSeconds } = await child.expect<{ cpuSeconds: number }>('done', { signal })
  return memoryBytes / cpuSeconds
}

// This file runs from the tree (tests) or from its compiled copy (npm run bench).
function packageRoot(): string {
  let at = import.meta.dirname
  while (!existsSync(join(at, 'bench/native/ceiling.cc'))) {
    const parent = dirname(at)
    if (parent === at) throw new Error(`found no bench/native above ${import.meta.dirname}`)
    at = parent
  }
  return at
}
