// A worker thread that is one side of a migration, or both, and stops in the middle of it on
// request.

import { parentPort, workerData } from 'node:worker_threads'
import {
  GuestMemory,
  MigrationDestination,
  MigrationSource,
  MultifdError,
} from '../../src/index.ts'
import { BLOCK, BYTES, guestMemory } from './held-migration.ts'

export interface WorkerRole {
  role: 'both' | 'source' | 'destination' | 'listening'
  /** Of the destination, for a source. */
  uri?: string
  /** Guest memory of another thread, instead of its own. */
  token?: number
}

const { role, uri, token } = workerData as WorkerRole
const tell = (line: string): void => parentPort?.postMessage(line)
const codeOf = (error: unknown): string =>
  error instanceof MultifdError ? error.code : String(error)
const never = (): Promise<never> => new Promise(() => {})

async function destination(): Promise<MigrationDestination> {
  const memory = GuestMemory.openMemfd(BLOCK, BYTES)
  const load = (): Promise<never> => {
    tell('held')
    return never()
  }
  const devices =
    role === 'destination' ? [{ idstr: 'cpu', save: () => new Uint8Array(), load }] : []
  const listening = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory, devices })
  listening.completed.catch((error: unknown) => tell(codeOf(error)))
  return listening
}

function source(to: string): Promise<unknown> {
  const memory = token === undefined ? guestMemory() : GuestMemory.fromToken(token)
  const stop = async (): Promise<void> => {
    if (role === 'both') return
    tell('held')
    await never()
  }
  const { result } = new MigrationSource({ memory, vmm: { stop, resume: () => {} } }).migrate(to)
  return result.then(
    () => tell('completed'),
    (error: unknown) => tell(codeOf(error)),
  )
}

if (role === 'source') {
  await source(uri ?? '')
} else {
  const { uri: here } = await destination()
  if (role === 'both') await source(here)
  else tell(here)
}
