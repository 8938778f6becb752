// The source side of a comparison: a process that makes guest RAM, waits for the destination's URI,
// migrates once, and reports. Every call of the library on this side is here, or in marked-log.ts
// and writer.ts, the two ways in which its guest writes.
import { GuestMemory, MigrationSource } from '../../src/index.ts'
import { readNetworkSettings } from '../../src/report/environment.ts'
import { BLOCK_NAME, checksum, populate, residentBytes } from './guest.ts'
import { nextLine, readOrder, say } from './lines.ts'
import { MarkedDirtyLog } from './marked-log.ts'
import { hugePageBytes, MemoryWatch, Meter, settle } from './meter.ts'
import type { SideOptions } from './side-options.ts'
import { warmUp } from './warm-up.ts'
import { Writer } from './writer.ts'

const options = readOrder<SideOptions>()
const { guest, compression, downtimeLimitMs, flushThresholds } = options
const line = nextLine()
const memory =
  guest.kind === 'memfd'
    ? GuestMemory.openMemfd(BLOCK_NAME, guest.sizeBytes)
    : GuestMemory.allocate(BLOCK_NAME, guest.sizeBytes, { hugePages: guest.hugePages })
populate(memory, guest)
const log = guest.markedLog && new MarkedDirtyLog(memory, guest.markedLog)
await warmUp(options.warmUps ?? 0, options.channels)
await settle()
say({ event: 'ready', hugePageBytes: hugePageBytes(), network: readNetworkSettings() })
const uri = await line
const writer = guest.dirtyBytesPerSecond
  ? await Writer.start(memory, guest.dirtyBytesPerSecond)
  : undefined

const watch = options.watchMemory ? new MemoryWatch() : undefined
const source = new MigrationSource({
  memory,
  dirty: log?.log ?? 'auto',
  devices: [],
  // This guest never drops a page: with that promise the library may register its memory.
  vmm: { stop: () => writer?.stop(), resume: async () => {}, discards: false },
  multifdChannels: options.channels,
  engine: options.engine,
  zeroCopy: options.zeroCopy,
  ...(compression && { compression }),
  ...(downtimeLimitMs === undefined ? {} : { downtimeLimitMs }),
  ...(flushThresholds && { flushThresholds }),
  allowPlaintext: options.allowPlaintext,
  maxBandwidthBytesPerSecond: 0,
})
const meter = new Meter()
const migration = await source.migrate(uri).result
const measured = meter.read()
const written = (await writer?.writes()) ?? null
say({
  event: 'done',
  ...measured,
  cpuSeconds: measured.cpuSeconds - (written?.cpuSeconds ?? 0),
  transportBytes: watch?.stop() ?? 0,
  guestResidentBytes: residentBytes(guest),
  checksum: options.checksum ? checksum(memory, guest) : '',
  migration,
  written,
  planMs: log?.planMs ?? [],
})
process.exit(0)
