// The storing side of the comparison with QEMU: a process that takes one QEMU's guest, stores it,
// and reports. Every call of the library on this side is in this file.
import { join } from 'node:path'
import { receiveSnapshot } from '../../src/index.ts'
import { nextLine, readOrder, say } from './lines.ts'
import { CpuLog, settle } from './meter.ts'
import type { SnapshotOrder } from './snapshot-lines.ts'

const { directory, channels } = readOrder<SnapshotOrder>()
void nextLine() // nothing is expected; it ends this process when the parent is gone
await settle()
const reception = await receiveSnapshot('tcp:127.0.0.1:0', { directory, multifdChannels: channels })
const cpu = new CpuLog()
say({ event: 'ready', uri: reception.uri })
const { storedMs, totalMs, manifest } = await reception.result
const endMs = performance.now()
cpu.stop()
const ram = manifest.ram.find(({ idstr }) => idstr === 'pc.ram')
if (ram === undefined) throw new Error('the guest that was stored has no pc.ram')
say({
  event: 'done',
  storing: cpu.span(endMs - totalMs, endMs - totalMs + storedMs),
  hashing: cpu.span(endMs - totalMs + storedMs, endMs),
  ramFile: join(directory, ram.path),
})
process.exit(0)
