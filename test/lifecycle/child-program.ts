// A program that ends in the middle of something, for tests of what its exit looks like. The mode
// is its first argument, what it needs follows; a line on stdout says how far it came.

import { subscribe } from 'node:diagnostics_channel'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { GuestMemory, MigrationDestination, MigrationSource } from '../../src/index.ts'
import { native } from '../../src/kit/native.ts'
import { BLOCK, BYTES, guestMemory, HeldMigration, MIDFLIGHT_BYTES } from './held-migration.ts'

const vmm = { stop: () => {}, resume: () => {} }

async function migrateOnce(to?: string): Promise<void> {
  await using memory = guestMemory()
  await using received = GuestMemory.openMemfd(BLOCK, BYTES)
  await using destination =
    to === undefined
      ? await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: received })
      : undefined
  await new MigrationSource({ memory, vmm }).migrate(to ?? destination?.uri ?? '').result
  await destination?.completed
}

async function collectGarbage(): Promise<void> {
  for (let pass = 0; pass < 5; pass += 1) {
    await new Promise((resolve) => setImmediate(resolve))
    global.gc?.()
  }
}

/** Drops a destination that listens; only its address is kept. */
async function listenAndForget(): Promise<string> {
  const memory = GuestMemory.openMemfd(BLOCK, BYTES)
  const { uri } = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory })
  return uri
}

/** Ends this program while its channel threads have work. */
const ends: Record<string, () => void> = {
  exit: () => process.exit(7),
  // Behind whoever would catch it.
  throw: () => {
    setImmediate(() => {
      throw new Error('the display broke')
    })
  },
  sigterm: () => void process.kill(process.pid, 'SIGTERM'),
}

const modes: Record<string, () => Promise<void>> = {
  async source() {
    const [, , , how = '', uri = ''] = process.argv
    const memory = GuestMemory.openMemfd(BLOCK, MIDFLIGHT_BYTES)
    memory.view(BLOCK).fill(0x61)
    const migration = new MigrationSource({
      ...{ memory, vmm, multifdChannels: 4, maxBandwidthBytesPerSecond: 32e6 },
    }).migrate(uri)
    migration.result.catch((error: unknown) => console.log(String(error)))
    for await (const { transferredBytes } of migration) if (transferredBytes > 1e6) break
    ends[how]?.()
  },
  async destination() {
    const how = process.argv[3] ?? ''
    const memory = GuestMemory.openMemfd(BLOCK, MIDFLIGHT_BYTES)
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory })
    destination.completed.catch((error: unknown) => console.log(String(error)))
    console.log(destination.uri)
    while (destination.receivedBytes < 1e6) await new Promise((resolve) => setImmediate(resolve))
    ends[how]?.()
  },
  async ends() {
    await migrateOnce()
  },
  async exit() {
    await HeldMigration.begin(guestMemory())
    process.exit(7)
  },
  async exitListening() {
    await listenAndForget()
    process.exit(7)
  },
  async exitAtOnce() {
    const memory = guestMemory()
    new MigrationSource({ memory, vmm }).migrate('tcp:127.0.0.1:1')
    process.exit(7)
  },
  async throwInProgress() {
    const held = await HeldMigration.begin(guestMemory())
    for await (const _progress of held.migration) throw new Error('the display broke')
  },
  async throwInSubscriber() {
    subscribe('multifd:round', () => {
      throw new Error('the subscriber broke')
    })
    await migrateOnce()
  },
  async forgotten() {
    const uri = await listenAndForget()
    await collectGarbage()
    // The listening thread keeps what it needs: it still takes a migration.
    await migrateOnce(uri)
    console.log('migrated')
    await collectGarbage()
    const { threads, sockets, eventFds, mappings } = native().census()
    console.log(JSON.stringify({ threads, sockets, eventFds, mappings }))
  },
  async forgottenMemory() {
    ;((): void => {
      guestMemory()
    })()
    await collectGarbage()
    console.log(native().census().mappings)
  },
  async loadedTwice() {
    const path =
      process.env.MULTIFD_NATIVE ??
      fileURLToPath(new URL('../../build/Release/multifd.node', import.meta.url))
    const again = { exports: {} as ReturnType<typeof native> }
    const require = createRequire(import.meta.url)
    require(path)
    process.dlopen(again, path)
    const second = again.exports
    const made = second.createGuestMemory([{ idstr: 'a', kind: 'memfd', sizeBytes: 4096 }])
    if ('detail' in made) throw new Error(made.detail)
    await migrateOnce()
    made.close([])
    const refused = second.createSendGroup({} as never)
    console.log('detail' in refused ? refused.code : 'accepted')
    console.log(JSON.stringify(native().census()) === JSON.stringify(second.census()))
  },
}

await modes[process.argv[2] ?? '']?.()
console.log('end')
