// A destination in a process of its own, driven over the IPC channel: it listens with memory as
// told, reports what happens to it, and hashes what it got.

import { createHash } from 'node:crypto'
import { GuestMemory, MigrationDestination, MultifdError } from '../../src/index.ts'

export interface ChildOptions {
  sizeBytes: number
  /** Does not answer the load of its one device: the source waits for "ready". */
  holdsLoad: boolean
}

export type ChildReport =
  | { kind: 'listening'; uri: string }
  | { kind: 'loading' }
  | { kind: 'completed'; sha1: string; receivedBytes: number }
  | { kind: 'failed'; code: string }

const options = JSON.parse(process.argv[2] ?? '') as ChildOptions
const report = (line: ChildReport): void => void process.send?.(line)

await using memory = GuestMemory.allocate('ram', options.sizeBytes)
const device = {
  idstr: 'cpu',
  save: () => new Uint8Array(0),
  load: async () => {
    report({ kind: 'loading' })
    if (options.holdsLoad) await new Promise(() => {})
  },
}
await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
  memory,
  devices: [device],
})
report({ kind: 'listening', uri: destination.uri })
try {
  const { receivedBytes } = await destination.completed
  const sha1 = createHash('sha1').update(memory.view('ram')).digest('hex')
  report({ kind: 'completed', sha1, receivedBytes })
} catch (error) {
  report({ kind: 'failed', code: error instanceof MultifdError ? error.code : String(error) })
}
process.disconnect()
