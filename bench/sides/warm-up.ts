// Small migrations inside this process, before the one that is measured: V8 compiles a function at
// its first call, and what a long-lived VMM pays once would be a twentieth of a short run. It knows
// nothing of what is measured afterwards, and leaves nothing behind.
import { GuestMemory, MigrationDestination, MigrationSource } from '../../src/index.ts'
import { BLOCK_NAME } from './guest.ts'

const SIZE_BYTES = 16 * 2 ** 20

/** Both sides' code, over loopback, so many times. */
export async function warmUp(times: number, channels: number): Promise<void> {
  for (let turn = 0; turn < times; turn += 1) {
    const memory = GuestMemory.allocate(BLOCK_NAME, SIZE_BYTES)
    const room = GuestMemory.allocate(BLOCK_NAME, SIZE_BYTES)
    memory.view(BLOCK_NAME).fill(turn + 1)
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: room })
    const source = new MigrationSource({
      memory,
      vmm: { stop: () => {}, resume: async () => {} },
      multifdChannels: channels,
    })
    await Promise.all([source.migrate(destination.uri).result, destination.completed])
    memory.close()
    room.close()
  }
}
