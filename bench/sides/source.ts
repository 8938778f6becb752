// The source side of a comparison: a process that makes guest RAM, waits for the destination's URI,
// migrates once, and reports. Every call of the library on this side is in this file.
import { GuestMemory, MigrationSource } from '../../src/index.ts'
import { readNetworkSettings } from '../../src/report/environment.ts'
import { BLOCK_NAME, checksum, populate, residentBytes } from './guest.ts'
import { nextLine, readOrder, say } from './lines.ts'
import { hugePageBytes, MemoryWatch, Meter, settle } from './meter.ts'
import type { SideOptions } from './side-options.ts'

const options = readOrder<SideOptions>()
const { guest } = options
const line = nextLine()
const memory =
  guest.kind === 'memfd'
    ? GuestMemory.openMemfd(BLOCK_NAME, guest.sizeBytes)
    : GuestMemory.allocate(BLOCK_NAME, guest.sizeBytes, { hugePages: guest.hugePages })
populate(memory, guest)
await settle()
say({ event: 'ready', hugePageBytes: hugePageBytes(), network: readNetworkSettings() })
const uri = await line

const watch = options.watchMemory ? new MemoryWatch() : undefined
const source = new MigrationSource({
  memory,
  dirty: 'auto',
  devices: [],
  // This guest never drops a page: with that promise the library may register its memory.
  vmm: { stop: async () => {}, resume: async () => {}, discards: false },
  multifdChannels: options.channels,
  engine: options.engine,
  zeroCopy: options.zeroCopy,
  ...(options.flushThresholds && { flushThresholds: options.flushThresholds }),
  allowPlaintext: options.allowPlaintext,
  maxBandwidthBytesPerSecond: 0,
})
const meter = new Meter()
const migration = await source.migrate(uri).result
const measured = meter.read()
say({
  event: 'done',
  ...measured,
  transportBytes: watch?.stop() ?? 0,
  guestResidentBytes: residentBytes(guest),
  checksum: options.checksum ? checksum(memory, guest) : '',
  migration,
})
process.exit(0)
