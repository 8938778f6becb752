// A migration over a path that can be cut, with what both ends are made of.

import {
  GuestMemory,
  MigrationDestination,
  type MigrationDestinationOptions,
  MigrationSource,
  type MigrationSourceOptions,
} from '../../src/index.ts'
import { CuttingProxy } from './cutting-proxy.ts'
import { filled } from './idle-guest.ts'
import { idleVmm } from './migration.ts'

export interface BrokenPath extends AsyncDisposable {
  from: GuestMemory
  to: GuestMemory
  proxy: CuttingProxy
  destination: MigrationDestination
  source: MigrationSource
}

/** A filled guest of so many bytes, and nobody who writes it but who is told to. */
export async function brokenPath(parts: {
  sizeBytes: number
  seed: number
  source?: Partial<MigrationSourceOptions>
  destination?: Partial<MigrationDestinationOptions>
}): Promise<BrokenPath> {
  const { sizeBytes, seed } = parts
  const from = parts.source?.memory ?? filled(sizeBytes, seed)
  const to = GuestMemory.of([{ idstr: 'ram', sizeBytes }])
  const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
    memory: to,
    ...parts.destination,
  })
  const proxy = await CuttingProxy.before(destination.uri)
  const source = new MigrationSource({ memory: from, vmm: idleVmm, ...parts.source })
  return {
    ...{ from, to, proxy, destination, source },
    async [Symbol.asyncDispose]() {
      await destination.close()
      await proxy[Symbol.asyncDispose]()
      await from.close()
      await to.close()
    },
  }
}
