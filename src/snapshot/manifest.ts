// The manifest of a snapshot: what a directory holds, as text that people can read. Types, and the
// way from and to JSON. It opens no files: snapshot-directory.ts does, and says which is missing.

import { fail, ok, type Result } from '../kit/errors.ts'
import {
  IDSTR_BYTES_MAX,
  MACHINE_NAME_BYTES_MAX,
  PAGE_SIZE_BYTES,
  RAM_BLOCKS_MAX,
} from '../kit/limits.ts'
import { describe } from '../kit/options.ts'
import type { Dialect } from '../wire/dialect.ts'
import { parseUuid } from '../wire/uuid.ts'

/** Goes up when a reader of the version before would misread a manifest. */
export const MANIFEST_FORMAT = 1

/** Files are hashed in pieces of this size, so that several can be hashed at once. */
export const PIECE_BYTES = 16 * 1024 * 1024

/** A file's hash in pieces: what `sha256sum` says of each, and of all of them together. */
export interface SnapshotHash {
  /** SHA-256 over the pieces' hashes (32 bytes each, in order), hexadecimal. */
  sha256: string
  /** SHA-256 of each PIECE_BYTES of the file, hexadecimal; the last piece may be shorter. */
  pieces: readonly string[]
}

export interface SnapshotFile {
  /** Below the snapshot's directory. */
  path: string
  sizeBytes: number
  /** What it took on the disk when it was stored; the rest were holes. */
  populatedBytes: number
  /** Null while a snapshot is stored, but not hashed yet: its data is whole all the same. */
  hash: SnapshotHash | null
}

export interface SnapshotRamFile extends SnapshotFile {
  /** The block's name on the wire. */
  idstr: string
}

export interface SnapshotDevicesFile extends SnapshotFile {
  /** Length of the device sections, before EOF and vmdescription; null without vmdescription. */
  sectionBytes: number | null
}

export interface SnapshotManifest {
  format: typeof MANIFEST_FORMAT
  /** The version of this library that stored it. */
  createdBy: string
  /** ISO 8601, UTC. */
  createdAt: string
  /** The source's resolved machine type, e.g. `pc-q35-7.2`. */
  machine: string
  /** The guest's UUID; all zero if it has none, null if nothing in the stream told it. */
  uuid: string | null
  /** Where the source's sync points were. */
  dialect: Dialect
  /** How it came; a replay need not go the same way. */
  received: { channels: number; compression: string; returnPath: boolean }
  /** The source's handle of its RAM section, and the section's version. */
  ramSection: { sectionId: number; versionId: number }
  pageBytes: typeof PAGE_SIZE_BYTES
  pieceBytes: typeof PIECE_BYTES
  /** In the order of the source's block list. */
  ram: readonly SnapshotRamFile[]
  /** Header and configuration section, as they came. */
  configuration: SnapshotFile
  /** Everything behind RAM, as it came: device sections, EOF, vmdescription. */
  devices: SnapshotDevicesFile
}

/** Every file of a snapshot but the manifest. */
export function snapshotFiles(manifest: SnapshotManifest): readonly SnapshotFile[] {
  return [manifest.configuration, ...manifest.ram, manifest.devices]
}

/** All hashes are there. */
export function isHashed(manifest: SnapshotManifest): boolean {
  return snapshotFiles(manifest).every(({ hash }) => hash !== null)
}

/** The file of a RAM block, told apart by its number, and by its name for people. */
export function ramFilePath(index: number, idstr: string): string {
  const name = idstr.replace(/[^A-Za-z0-9._-]+/g, '_').slice(0, 64)
  return `ram/${index}-${name}.bin`
}

export function formatManifest(manifest: SnapshotManifest): string {
  return `${JSON.stringify(manifest, null, 2)}\n`
}

/** A manifest from its text, every field checked: whoever can write the file is not trusted. */
export function parseManifest(text: string): Result<SnapshotManifest> {
  try {
    return ok(checkManifest(JSON.parse(text)))
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    return fail('ERR_MULTIFD_SNAPSHOT', `the manifest is damaged or not one of ours: ${problem}`)
  }
}

type Fields = Readonly<Record<string, unknown>>

// Every check below throws, for parseManifest alone, a sentence that names the field.

function checkManifest(value: unknown): SnapshotManifest {
  const fields = record('the manifest', value)
  if (fields.format !== MANIFEST_FORMAT) {
    throw new Error(
      `it has format ${describe(fields.format)}, this version reads ${MANIFEST_FORMAT}`,
    )
  }
  if (fields.pageBytes !== PAGE_SIZE_BYTES || fields.pieceBytes !== PIECE_BYTES) {
    throw new Error(`expected pages of ${PAGE_SIZE_BYTES} and pieces of ${PIECE_BYTES} bytes`)
  }
  const received = record('received', fields.received)
  const ramSection = record('ramSection', fields.ramSection)
  return {
    format: MANIFEST_FORMAT,
    createdBy: text('createdBy', fields.createdBy, 64),
    createdAt: text('createdAt', fields.createdAt, 64),
    machine: text('machine', fields.machine, MACHINE_NAME_BYTES_MAX),
    uuid: fields.uuid === null ? null : checkUuid(fields.uuid),
    dialect: checkDialect(fields.dialect),
    received: {
      channels: count('received.channels', received.channels),
      compression: text('received.compression', received.compression, 64),
      returnPath: received.returnPath === true,
    },
    ramSection: {
      sectionId: count('ramSection.sectionId', ramSection.sectionId),
      versionId: count('ramSection.versionId', ramSection.versionId),
    },
    pageBytes: PAGE_SIZE_BYTES,
    pieceBytes: PIECE_BYTES,
    ram: checkRam(fields.ram),
    configuration: checkFile('configuration', fields.configuration, 'config.bin'),
    devices: checkDevices(fields.devices),
  }
}

function checkRam(value: unknown): SnapshotRamFile[] {
  const list = array('ram', value)
  if (list.length === 0 || list.length > RAM_BLOCKS_MAX) {
    throw new Error(`ram lists ${list.length} blocks, expected 1 to ${RAM_BLOCKS_MAX}`)
  }
  const names = new Set<string>()
  return list.map((entry, index) => {
    const what = `ram[${index}]`
    const idstr = text(`${what}.idstr`, record(what, entry).idstr, IDSTR_BYTES_MAX)
    if (names.has(idstr)) throw new Error(`two RAM blocks are named ${describe(idstr)}`)
    names.add(idstr)
    const file = checkFile(what, entry, ramFilePath(index, idstr))
    if (file.sizeBytes > 0 && file.sizeBytes % PAGE_SIZE_BYTES === 0) return { idstr, ...file }
    throw new Error(`${what}.sizeBytes is ${file.sizeBytes}, expected whole pages`)
  })
}

function checkDevices(value: unknown): SnapshotDevicesFile {
  const { sectionBytes } = record('devices', value)
  const file = checkFile('devices', value, 'devices.bin')
  if (sectionBytes === null) return { ...file, sectionBytes }
  return { ...file, sectionBytes: count('devices.sectionBytes', sectionBytes) }
}

/** The path follows from the rest: nothing else is ever opened. */
function checkFile(what: string, value: unknown, path: string): SnapshotFile {
  const fields = record(what, value)
  if (fields.path !== path) {
    throw new Error(`${what}.path is ${describe(fields.path)}, expected "${path}"`)
  }
  const sizeBytes = count(`${what}.sizeBytes`, fields.sizeBytes)
  const populatedBytes = count(`${what}.populatedBytes`, fields.populatedBytes)
  const hash = fields.hash === null ? null : checkHash(what, fields.hash, sizeBytes)
  return { path, sizeBytes, populatedBytes, hash }
}

function checkHash(what: string, value: unknown, sizeBytes: number): SnapshotHash {
  const fields = record(`${what}.hash`, value)
  const pieces = array(`${what}.hash.pieces`, fields.pieces).map((piece) => sha256(what, piece))
  const expected = Math.ceil(sizeBytes / PIECE_BYTES)
  if (pieces.length !== expected) {
    throw new Error(`${what} has ${pieces.length} hashed pieces, expected ${expected}`)
  }
  return { sha256: sha256(what, fields.sha256), pieces }
}

function sha256(what: string, value: unknown): string {
  if (typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)) return value
  throw new Error(`${what} has the hash ${describe(value)}, expected 64 hexadecimal digits`)
}

function checkUuid(value: unknown): string {
  const uuid = text('uuid', value, 36)
  const parsed = parseUuid(uuid)
  if (!parsed.ok) throw parsed.error
  return uuid
}

function checkDialect(value: unknown): Dialect {
  if (value === 'per-section' || value === 'per-round') return value
  throw new Error(`dialect is ${describe(value)}, expected "per-section" or "per-round"`)
}

function record(what: string, value: unknown): Fields {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields
  throw new Error(`${what} is ${describe(value)}, expected an object`)
}

function array(what: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw new Error(`${what} is ${describe(value)}, expected an array`)
}

function text(what: string, value: unknown, bytesMax: number): string {
  if (typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= bytesMax) {
    return value
  }
  throw new Error(`${what} is ${describe(value)}, expected text of 1 to ${bytesMax} bytes`)
}

function count(what: string, value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
  throw new Error(`${what} is ${describe(value)}, expected a whole number`)
}
