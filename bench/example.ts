// Runs the v86 example (`npm start`) as a comparison needs it: one migration of a guest that runs
// and checks itself, by processes of its own, and what the example says of it as JSON.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { extname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { DowntimeParts } from '../src/index.ts'

/** What is read of the example's verdict; the rest is passed on as it is. */
export interface ExampleRun {
  /** Last guest instruction at the source to first at the destination, less hashing. */
  readonly downtimeMs: number
  readonly downtimeParts: DowntimeParts
  readonly totalTimeMs: number
  readonly rounds: number
  readonly transferredBytes: number
  /** Of the channel threads, per 10^9 bytes transferred. */
  readonly sourceCpuSecondsPerGb: number
  readonly destinationCpuSecondsPerGb: number
  readonly perChannel: readonly { readonly sentBytes: number; readonly copiedBytes: number }[]
  readonly engine: string
  readonly guestPagesPerSecond: number
}

/** Rejects with the example's words unless the guest arrived unharmed. */
export async function runExample(
  options: {
    readonly memoryMib: number
    readonly pagesPerSecond: number
    readonly channels: number
  },
  { signal }: { signal: AbortSignal },
): Promise<ExampleRun> {
  const program = join(
    import.meta.dirname,
    '../examples/v86',
    `main${extname(import.meta.filename)}`,
  )
  const args = [
    ...[program, '--json', '--memory', String(options.memoryMib)],
    ...['--rate', String(options.pagesPerSecond), '--channels', String(options.channels)],
  ]
  const example = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  // By SIGTERM, twice: the first cancels the migration, the second ends it at once.
  const stop = () => {
    example.kill()
    example.kill()
  }
  signal.addEventListener('abort', stop, { once: true })
  try {
    const closed = once(example, 'close')
    const [out, said] = await Promise.all([text(example.stdout), text(example.stderr), closed])
    signal.throwIfAborted()
    if (example.exitCode === 0) return JSON.parse(out.trim().split('\n').at(-1) ?? '') as ExampleRun
    throw new Error(`the v86 example ended with ${example.exitCode}: ${said.trim()}`)
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
