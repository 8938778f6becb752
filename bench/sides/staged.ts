// A source whose limit changes while it sends, with devices that are never done if so ordered: it
// reads its own counters at each change, and cancels the migration in the end. Every call of the
// library for that is in this file.
import { setTimeout as delay } from 'node:timers/promises'
import { GuestMemory, MigrationSource } from '../../src/index.ts'
import { readNetworkSettings } from '../../src/report/environment.ts'
import { BLOCK_NAME, populate } from './guest.ts'
import { nextLine, readOrder, say } from './lines.ts'
import { hugePageBytes, monotonicMs, settle } from './meter.ts'
import type { StagedOrder, StageReading } from './staged-lines.ts'
import { unendingDevices } from './unending.ts'

const { guest, channels, unendingDevices: count, stages } = readOrder<StagedOrder>()
const line = nextLine()
const memory = GuestMemory.allocate(BLOCK_NAME, guest.sizeBytes, { hugePages: guest.hugePages })
populate(memory, guest)
await settle()
say({ event: 'ready', hugePageBytes: hugePageBytes(), network: readNetworkSettings() })
const uri = await line

const deviceBytes = Array.from({ length: count }, () => 0)
const turns: number[] = []
const source = new MigrationSource({
  memory,
  vmm: { stop: () => {}, resume: async () => {}, discards: false },
  devices: unendingDevices(count, (device, bytes) => {
    deviceBytes[device] = (deviceBytes[device] ?? 0) + bytes
    turns.push(device)
  }),
  multifdChannels: channels,
  maxBandwidthBytesPerSecond: stages[0]?.bytesPerSecond ?? 0,
})
const migration = source.migrate(uri)
const completed = migration.result.then(() => {
  throw new Error('all RAM was sent before the last stage was over: the guest is too small')
})
completed.catch(() => {})
while (migration.status !== 'active') await Promise.race([delay(1), completed])
const readings: StageReading[] = [reading()]
for (const { bytesPerSecond, ms } of stages) {
  migration.setParameters({ maxBandwidthBytesPerSecond: bytesPerSecond })
  await Promise.race([delay(ms), completed])
  readings.push(reading())
}
const left = migration.query().ram?.remaining ?? 0
migration.cancel()
await migration.result.catch(() => {})
if (left === 0) throw new Error('RAM was sent before the last stage was over: it is too small')
say({ event: 'done', readings, turns })
process.exit(0)

function reading(): StageReading {
  const ramBytes = migration.query().ram?.['multifd-bytes'] ?? 0
  return { atMs: monotonicMs(), ramBytes, deviceBytes: [...deviceBytes], turns: turns.length }
}
