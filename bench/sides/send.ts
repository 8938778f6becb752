// The sending side of the comparison with QEMU: a process that sends a stored guest to one QEMU,
// and reports. Every call of the library on this side is in this file.
import { sendSnapshot } from '../../src/index.ts'
import { nextLine, readOrder, say } from './lines.ts'
import { CpuLog, settle } from './meter.ts'
import type { SnapshotOrder } from './snapshot-lines.ts'

const { directory, channels } = readOrder<SnapshotOrder>()
const line = nextLine()
await settle()
say({ event: 'ready', uri: '' })
const uri = await line

const cpu = new CpuLog()
const startMs = performance.now()
const [outcome] = await sendSnapshot(directory, uri, { multifdChannels: channels }).result
const endMs = performance.now()
cpu.stop()
if (outcome?.status !== 'completed') {
  throw outcome?.error ?? new Error('sendSnapshot said nothing of its destination')
}
say({
  event: 'done',
  whole: cpu.span(startMs, endMs),
  // Letting go of the mapping comes behind QEMU's last word; it is short.
  sending: cpu.span(endMs - outcome.totalTimeMs, endMs),
  engine: outcome.engine,
  engineReason: outcome.engineReason,
})
process.exit(0)
