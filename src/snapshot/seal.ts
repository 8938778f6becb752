// From files that are written to a manifest: everything made durable, measured and hashed. What is
// small is hashed at once; RAM, which takes seconds, when the source no longer waits.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { packageRoot } from '../kit/native.ts'
import type { Dialect } from '../wire/dialect.ts'
import type { Configuration } from '../wire/main-stream-events.ts'
import type { RamBlockEntry } from '../wire/ram-words.ts'
import { formatUuid } from '../wire/uuid.ts'
import {
  MANIFEST_FORMAT,
  PIECE_BYTES,
  ramFilePath,
  type SnapshotFile,
  type SnapshotManifest,
  type SnapshotRamFile,
} from './manifest.ts'
import { hashBytes, hashFiles } from './piece-hashes.ts'
import type { SnapshotDirectory } from './snapshot-directory.ts'

/** What came in. The RAM is in its files already, the rest is in memory. */
export interface ReceivedGuest {
  configuration: Configuration
  dialect: Dialect
  ramSection: { sectionId: number; versionId: number }
  opening: Uint8Array
  blocks: readonly RamBlockEntry[]
  devices: Uint8Array
  sectionBytes: number | null
  uuid: Uint8Array | undefined
  channels: number
  compression: string
  returnPath: boolean
}

/** Writes what is in memory and makes every file durable; its manifest, without hashes of RAM. */
export async function newManifest(
  directory: SnapshotDirectory,
  guest: ReceivedGuest,
): Promise<SnapshotManifest> {
  const configuration = await storeBytes(directory, 'config.bin', guest.opening)
  const devices = await storeBytes(directory, 'devices.bin', guest.devices)
  const ram = await Promise.all(
    guest.blocks.map(async ({ idstr, usedLength }, index): Promise<SnapshotRamFile> => {
      const path = ramFilePath(index, idstr)
      const populatedBytes = await directory.sync(path)
      return { idstr, path, sizeBytes: usedLength, populatedBytes, hash: null }
    }),
  )
  const { dialect, ramSection, uuid, channels, compression, returnPath } = guest
  return {
    format: MANIFEST_FORMAT,
    createdBy: `multifd ${version()}`,
    createdAt: new Date().toISOString(),
    machine: guest.configuration.machineName,
    uuid: uuid === undefined ? null : formatUuid(uuid),
    dialect,
    received: { channels, compression, returnPath },
    ramSection,
    pageBytes: PAGE_SIZE_BYTES,
    pieceBytes: PIECE_BYTES,
    ram,
    configuration,
    devices: { ...devices, sectionBytes: guest.sectionBytes },
  }
}

/** The manifest with the hashes of RAM. */
export async function hashRam(
  directory: SnapshotDirectory,
  manifest: SnapshotManifest,
  signal: AbortSignal | undefined,
): Promise<SnapshotManifest> {
  const files = manifest.ram.map(({ path, sizeBytes }) => {
    return { path: directory.pathOf(path), sizeBytes }
  })
  const hashes = await hashFiles(files, { signal })
  const ram = manifest.ram.map((file, index) => ({ ...file, hash: hashes[index] ?? null }))
  return { ...manifest, ram }
}

async function storeBytes(
  directory: SnapshotDirectory,
  path: string,
  bytes: Uint8Array,
): Promise<SnapshotFile> {
  await directory.write(path, bytes)
  const populatedBytes = await directory.sync(path)
  return { path, sizeBytes: bytes.length, populatedBytes, hash: hashBytes(bytes) }
}

function version(): string {
  const text = readFileSync(join(packageRoot(), 'package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
