// The recorded stream of one of our own sources, small enough to be cut at every byte, and how it
// was recorded: run this file to record it again.
//
//   node --import ./test/support/typescript-loader.mjs test/migrate/own-vector.ts

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { MigrationDestination } from '../../src/destination.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import type { Device } from '../../src/migrate/vmm.ts'
import { MigrationSource } from '../../src/source.ts'

/** What test/vectors/own-small/manifest.json says. */
export interface OwnVector {
  idstr: string
  usedLength: number
  channels: number
  device: { idstr: string; bytes: number }
  /** Pages with contents, and the byte they are filled with; all other pages are zero. */
  pages: { page: number; fill: number }[]
  syncs: number
  files: Record<string, number>
}

const FOLDER = new URL('../vectors/own-small/', import.meta.url)

export function ownVector(): OwnVector {
  return JSON.parse(readFileSync(new URL('manifest.json', FOLDER), 'utf8')) as OwnVector
}

/** The streams of main channel and multifd channels, as they were on the wire. */
export function ownStreams(): { main: Uint8Array; channels: Uint8Array[] } {
  const read = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(name, FOLDER)))
  const { channels } = ownVector()
  return {
    main: read('main.bin'),
    channels: Array.from({ length: channels }, (_, id) => read(`ch${id}.bin`)),
  }
}

/** One is enough: every byte of the recording costs the test an attempt. */
const PAGES = [{ page: 1, fill: 0x31 }]

async function record(): Promise<void> {
  const [idstr, usedLength, channels] = ['guest.ram', 64 * 1024, 2]
  const state = Uint8Array.of(7, 8, 9)
  const device: Device = { idstr: 'clock', save: () => state, load: () => {} }
  await using memory = GuestMemory.openMemfd(idstr, usedLength)
  await using received = GuestMemory.openMemfd(idstr, usedLength)
  for (const { page, fill } of PAGES) {
    memory.view(idstr).fill(fill, page * 4096, (page + 1) * 4096)
  }
  memory.view(idstr)[5 * 4096] = 0 // touched and zero: travels as a zero page
  await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
    memory: received,
    devices: [device],
  })
  const streams: Buffer[][] = []
  const server = createServer((socket) => streams.push(relay(socket, destination.uri)))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  const source = new MigrationSource({
    memory,
    devices: [device],
    multifdChannels: channels,
    vmm: { stop: () => {}, resume: () => {} },
  })
  await source.migrate(`tcp:127.0.0.1:${port}`).result
  const { syncs } = await destination.completed
  server.close()
  const files: Record<string, number> = {}
  mkdirSync(FOLDER, { recursive: true })
  for (const bytes of streams.map((parts) => Buffer.concat(parts))) {
    const name = bytes.readUInt32BE(0) === 0x11223344 ? `ch${bytes[24]}.bin` : 'main.bin'
    files[name] = bytes.length
    writeFileSync(new URL(name, FOLDER), bytes)
  }
  const manifest: OwnVector = {
    ...{ idstr, usedLength, channels, device: { idstr: 'clock', bytes: state.length } },
    ...{ pages: PAGES, syncs, files },
  }
  writeFileSync(new URL('manifest.json', FOLDER), `${JSON.stringify(manifest, null, 2)}\n`)
  console.log(manifest)
}

/** Passes everything on, both ways; what the source said is kept. */
function relay(socket: Socket, uri: string): Buffer[] {
  const parts: Buffer[] = []
  const onward = connect(Number(uri.split(':').at(-1)), '127.0.0.1')
  socket.on('data', (bytes: Buffer) => parts.push(bytes))
  socket.pipe(onward).pipe(socket)
  return parts
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await record()
