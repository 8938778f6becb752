// One migration between two memories of this process, with its progress; what most tests begin
// with.

import type {
  GuestMemory,
  IncomingResult,
  MigrationDestinationOptions,
  MigrationProgress,
  MigrationResult,
  MigrationSourceOptions,
  Vmm,
} from '../../src/index.ts'
import { MigrationDestination, MigrationSource, MultifdError } from '../../src/index.ts'

export interface MigrationRun {
  from: GuestMemory
  to: GuestMemory
  vmm?: Vmm
  uri?: string
  source?: Partial<MigrationSourceOptions>
  destination?: Partial<MigrationDestinationOptions>
  /** Called with every progress event. */
  progress?: (event: MigrationProgress) => void
}

export interface Outcome {
  result: MigrationResult
  incoming: IncomingResult
  progress: MigrationProgress[]
}

/** A guest that stands still already. */
export const idleVmm: Vmm = { stop: () => {}, resume: () => {} }

/** Migrates and closes the destination; rejects with what the source rejected with. */
export async function migrateOnce(run: MigrationRun): Promise<Outcome> {
  const destination = await MigrationDestination.listen(run.uri ?? 'tcp:127.0.0.1:0', {
    memory: run.to,
    ...run.destination,
  })
  try {
    const source = new MigrationSource({
      memory: run.from,
      vmm: run.vmm ?? idleVmm,
      ...run.source,
    })
    const migration = source.migrate(destination.uri)
    const progress: MigrationProgress[] = []
    for await (const event of migration) {
      progress.push(event)
      run.progress?.(event)
    }
    return { result: await migration.result, incoming: await destination.completed, progress }
  } finally {
    await destination.close()
  }
}

/** What the promise rejects with, which must be a MultifdError. */
export async function failure(promise: Promise<unknown>): Promise<MultifdError> {
  const error = await promise.then(
    () => new Error('expected a rejection, but it resolved'),
    (thrown: unknown) => thrown,
  )
  if (error instanceof MultifdError) return error
  throw error
}
