// The worker thread of tests: migrates memory that the main thread registered, and asks the main
// thread to stop and resume the guest.

import { once } from 'node:events'
import { parentPort, workerData } from 'node:worker_threads'
import { GuestMemory, MigrationSource, MultifdError } from '../../src/index.ts'

export interface WorkerOptions {
  token: number
  uri: string
  maxBandwidthBytesPerSecond: number
}

export type WorkerReport =
  | { kind: 'stop' }
  | { kind: 'resume' }
  | { kind: 'sent'; bytes: number }
  | { kind: 'completed'; dirtyTracker: string }
  | { kind: 'failed'; code: string }

const { token, uri, maxBandwidthBytesPerSecond } = workerData as WorkerOptions
const port = parentPort
if (port === null) throw new Error('runs in a worker thread only')
const report = (line: WorkerReport): void => port.postMessage(line)

/** The answer is any message. */
async function ask(kind: 'stop' | 'resume'): Promise<void> {
  const answered = once(port as NonNullable<typeof port>, 'message')
  report({ kind })
  await answered
}

const memory = GuestMemory.fromToken(token)
const vmm = { stop: () => ask('stop'), resume: () => ask('resume') }
const source = new MigrationSource({ memory, vmm, maxBandwidthBytesPerSecond })
const migration = source.migrate(uri)
try {
  for await (const { transferredBytes } of migration) {
    report({ kind: 'sent', bytes: transferredBytes })
  }
  const { dirtyTracker } = await migration.result
  report({ kind: 'completed', dirtyTracker })
} catch (error) {
  report({ kind: 'failed', code: error instanceof MultifdError ? error.code : String(error) })
}
await memory.close()
