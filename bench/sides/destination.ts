// The destination side of a comparison: a process that makes empty guest RAM, listens, receives one
// migration, and reports. Every call of the library on this side is in this file.
import { GuestMemory, MigrationDestination } from '../../src/index.ts'
import { readNetworkSettings } from '../../src/report/environment.ts'
import { BLOCK_NAME, checksum, prefault, residentBytes } from './guest.ts'
import { nextLine, readOrder, say } from './lines.ts'
import { hugePageBytes, MemoryWatch, Meter, settle } from './meter.ts'
import type { SideOptions } from './side-options.ts'
import { unendingDevices } from './unending.ts'
import { warmUp } from './warm-up.ts'

const options = readOrder<SideOptions>()
const { guest } = options
void nextLine() // nothing is expected; it ends this process when the parent is gone
const memory =
  guest.kind === 'memfd'
    ? GuestMemory.openMemfd(BLOCK_NAME, guest.sizeBytes)
    : GuestMemory.allocate(BLOCK_NAME, guest.sizeBytes, { hugePages: guest.hugePages })
// Anonymous memory is touched beforehand, as the plain C++ loop's is, and the library is told that
// it is all zero: emptying it would make the first touch part of the transfer again.
if (guest.kind === 'anonymous') prefault(memory)
await warmUp(options.warmUps ?? 0, options.channels)
await settle()

const watch = options.watchMemory ? new MemoryWatch() : undefined
const destination = await MigrationDestination.listen(`tcp:${options.address}:0`, {
  memory,
  devices: unendingDevices(options.unendingDevices ?? 0),
  memoryIsZero: guest.kind === 'anonymous',
  allowPlaintext: options.allowPlaintext,
})
const meter = new Meter()
say({
  event: 'ready',
  uri: destination.uri,
  hugePageBytes: hugePageBytes(),
  network: readNetworkSettings(),
})
await destination.completed
const measured = meter.read()
say({
  event: 'done',
  ...measured,
  transportBytes: watch?.stop() ?? 0,
  guestResidentBytes: residentBytes(guest),
  checksum: options.checksum ? checksum(memory, guest) : '',
})
process.exit(0)
