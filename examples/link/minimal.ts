// The library linked into a VMM, as small as it goes: both sides in one program, and a "guest" that
// is a timer. README.md shows exactly this code; a test keeps the two the same and runs it.
import { GuestMemory, MigrationDestination, MigrationSource } from '../../src/index.ts'

// The destination, usually another process: the same RAM blocks and devices, and no guest yet.
const sizeBytes = 64 * 1024 * 1024
await using to = GuestMemory.allocate('pc.ram', sizeBytes)
const cpu = {
  idstr: 'cpu',
  save: () => Buffer.from('state'),
  load: () => console.log('loaded'),
}
await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
  memory: to,
  devices: [cpu],
})

// The source: a guest that rewrites its memory until the library has the VMM stop it.
await using from = GuestMemory.allocate('pc.ram', sizeBytes)
const ram = new Uint32Array(from.view('pc.ram').buffer)
const write = () => ram.fill(Date.now())
let guest = setInterval(write, 10)
const stop = () => clearInterval(guest)
const resume = () => {
  guest = setInterval(write, 10)
}
const source = new MigrationSource({ memory: from, vmm: { stop, resume }, devices: [cpu] })
const migration = source.migrate(destination.uri)
for await (const { round, remainingBytes } of migration) console.log({ round, remainingBytes })
const { rounds, downtimeMs } = await migration.result

await destination.completed // now, and not before, the guest may run at the destination
const same = Buffer.compare(from.view('pc.ram'), to.view('pc.ram')) === 0
console.log({ rounds, downtimeMs, same })
