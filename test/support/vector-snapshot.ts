// A snapshot made of a recorded stream, and one made of chosen pages: what receiveSnapshot would
// have stored, without a migration.

import { createHash } from 'node:crypto'
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import {
  MANIFEST_FORMAT,
  PIECE_BYTES,
  ramFilePath,
  type SnapshotManifest,
} from '../../src/snapshot/manifest.ts'
import { hashBytes, hashFile } from '../../src/snapshot/piece-hashes.ts'
import { SnapshotDirectory } from '../../src/snapshot/snapshot-directory.ts'
import { MULTIFD_FLAG_SYNC } from '../../src/wire/constants.ts'
import { type Dialect, DialectDetector } from '../../src/wire/dialect.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import { decodeRamPacketHeader, RAM_PACKET_HEADER_BYTES } from '../../src/wire/packet.ts'
import { loadStream, type Vector, vectorNamed } from '../wire/vectors.ts'

/** What a snapshot holds, as tests see it. */
export interface Contents {
  machine: string
  dialect: Dialect
  channels: number
  sectionId: number
  configuration: Uint8Array
  tail: Uint8Array
  /** Length of the device sections in the tail. */
  sectionBytes: number | null
  ram: Map<string, Uint8Array>
}

const contents = new Map<string, Contents>()

/** The VM of a recorded stream. */
export function contentsOf(name: string): Contents {
  const known = contents.get(name)
  if (known !== undefined) return known
  const made = rebuild(vectorNamed(name))
  contents.set(name, made)
  return made
}

/** Stores a VM as a snapshot; pages of zeros become holes. */
export async function storeSnapshot(
  path: string,
  { ram, configuration, tail, ...rest }: Contents,
): Promise<SnapshotManifest> {
  const directory = await SnapshotDirectory.create(path)
  await directory.write('config.bin', configuration)
  await directory.write('devices.bin', tail)
  const file = (name: string, bytes: Uint8Array) => {
    const { length } = bytes
    return { path: name, sizeBytes: length, populatedBytes: length, hash: hashBytes(bytes) }
  }
  const files: SnapshotManifest['ram'][number][] = []
  for (const [idstr, bytes] of ram) {
    const name = ramFilePath(files.length, idstr)
    writeSparsely(directory.pathOf(name), bytes)
    const hash = await hashFile(directory.pathOf(name), bytes.length)
    files.push({ ...file(name, bytes), idstr, hash })
  }
  const manifest: SnapshotManifest = {
    format: MANIFEST_FORMAT,
    createdBy: 'multifd 0.0.0',
    createdAt: '2026-01-01T00:00:00.000Z',
    machine: rest.machine,
    uuid: null,
    dialect: rest.dialect,
    received: { channels: rest.channels, compression: 'none', returnPath: true },
    ramSection: { sectionId: rest.sectionId, versionId: 4 },
    pageBytes: 4096,
    pieceBytes: PIECE_BYTES,
    ram: files,
    configuration: file('config.bin', configuration),
    devices: { ...file('devices.bin', tail), sectionBytes: rest.sectionBytes },
  }
  await directory.writeManifest(manifest)
  return manifest
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function writeSparsely(path: string, bytes: Uint8Array): void {
  const fd = openSync(path, 'wx')
  try {
    ftruncateSync(fd, bytes.length)
    for (let at = 0; at < bytes.length; at += 4096) {
      const page = bytes.subarray(at, at + 4096)
      if (page.some((byte) => byte !== 0)) writeSync(fd, page, 0, page.length, at)
    }
  } finally {
    closeSync(fd)
  }
}

function rebuild(vector: Vector): Contents {
  const stream = loadStream(vector.main.file)
  const { events } = new MainStreamReader().push(stream)
  const ram = new Map<string, Uint8Array>()
  const detector = new DialectDetector()
  const channels: Uint8Array[] = vector.multifd.map(({ file }) => loadStream(file).subarray(64))
  for (const event of events) apply(event, ram, detector, channels)
  const start = events.find((event) => event.kind === 'section-start')
  const end = events.find((event) => event.kind === 'device-tail-end')
  if (start?.kind !== 'section-start') throw new Error(`${vector.name} has no RAM section`)
  return {
    machine: vector.machine,
    dialect: detector.dialect ?? 'per-section',
    channels: vector.channels,
    sectionId: start.sectionId,
    // Header, type byte, counted name: none of the recorded sources sent a subsection.
    configuration: stream.slice(0, 13 + vector.machine.length),
    tail: stream.slice(vector.main.device_tail_at),
    sectionBytes: end?.kind === 'device-tail-end' ? end.deviceBytes : null,
    ram,
  }
}

function apply(
  event: MainStreamEvent,
  ram: Map<string, Uint8Array>,
  detector: DialectDetector,
  channels: Uint8Array[],
): void {
  if (event.kind === 'ram-mem-size') {
    for (const { idstr, usedLength } of event.blocks) ram.set(idstr, new Uint8Array(usedLength))
  } else if (event.kind === 'ram-zero') {
    ram.get(event.idstr)?.fill(0, event.offset, event.offset + event.pages * 4096)
  } else if (event.kind === 'ram-page') {
    ram.get(event.idstr)?.set(event.contents, event.offset)
  } else if (event.kind === 'ram-flush' || event.kind === 'ram-eos') {
    if (!detector.observe(event.kind)) return
    channels.forEach((bytes, index) => {
      channels[index] = applyUpToSync(bytes, ram)
    })
  }
}

function applyUpToSync(stream: Uint8Array, ram: Map<string, Uint8Array>): Uint8Array {
  for (let bytes = stream; ; ) {
    const decoded = decodeRamPacketHeader(bytes.subarray(0, RAM_PACKET_HEADER_BYTES))
    if (!decoded.ok) throw decoded.error
    const { flags, ramblock, normalOffsets, zeroOffsets, nextPacketSize } = decoded.value
    const payload = bytes.subarray(RAM_PACKET_HEADER_BYTES)
    normalOffsets.forEach((offset, i) => {
      ram.get(ramblock)?.set(payload.subarray(i * 4096, (i + 1) * 4096), offset)
    })
    for (const offset of zeroOffsets) ram.get(ramblock)?.fill(0, offset, offset + 4096)
    bytes = payload.subarray(nextPacketSize)
    if (flags & MULTIFD_FLAG_SYNC) return bytes
  }
}
