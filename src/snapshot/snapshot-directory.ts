// A snapshot's directory: made, filled and sealed so that a crash leaves either a whole snapshot or
// none, and read back with every file checked. The manifest is written last and by a rename: where
// it is, everything is.

import { constants } from 'node:fs'
import { mkdir, open, readdir, rename, rm, rmdir, stat } from 'node:fs/promises'
import { dirname, join, resolve, sep } from 'node:path'
import { MultifdError } from '../kit/errors.ts'
import {
  formatManifest,
  isHashed,
  parseManifest,
  type SnapshotFile,
  type SnapshotHash,
  type SnapshotManifest,
  snapshotFiles,
} from './manifest.ts'
import { hashFiles } from './piece-hashes.ts'

const MANIFEST = 'manifest.json'
const MANIFEST_BYTES_MAX = 256 * 1024 * 1024

/** What makes things durable; replaced by the tests that look at the order. */
export interface Durability {
  /** The file's, or the directory's, contents are on the disk. */
  sync(path: string): Promise<void>
  rename(from: string, to: string): Promise<void>
}

export const kernelDurability: Durability = {
  async sync(path) {
    await using file = await open(path, constants.O_RDONLY)
    await file.sync()
  },
  rename,
}

/** A directory that is being filled; nobody takes it for a snapshot before `writeManifest`. */
export class SnapshotDirectory {
  readonly path: string
  readonly #durability: Durability
  /** What had to be made for it, itself first, then its parents. */
  readonly #made: readonly string[]

  private constructor(path: string, made: readonly string[], durability: Durability) {
    this.path = path
    this.#made = made
    this.#durability = durability
  }

  /**
   * Makes the directory where it is missing. What is there already must be empty.
   * @throws MultifdError ERR_MULTIFD_SNAPSHOT
   */
  static async create(
    path: string,
    durability: Durability = kernelDurability,
  ): Promise<SnapshotDirectory> {
    try {
      const made = madeFor(path, await mkdir(path, { recursive: true }))
      const there = await readdir(path)
      if (there.length > 0) throw occupied(path, there[0])
      await mkdir(join(path, 'ram')) // of two that come at once, one fails here
      return new SnapshotDirectory(path, made, durability)
    } catch (cause) {
      if (cause instanceof MultifdError) throw cause
      if ((cause as NodeJS.ErrnoException).code === 'EEXIST') throw occupied(path, 'ram')
      throw refused(`making the snapshot directory ${path} failed`, cause)
    }
  }

  /** The full path of one of its files. */
  pathOf(file: string): string {
    return join(this.path, file)
  }

  /** Writes a file that only its owner reads, as RAM's; durable when this resolves. */
  async write(file: string, bytes: Uint8Array): Promise<void> {
    const path = this.pathOf(file)
    try {
      {
        await using handle = await open(path, 'wx', 0o600)
        await handle.writeFile(bytes)
      }
      await this.#durability.sync(path)
    } catch (cause) {
      throw refused(`storing ${path} failed`, cause)
    }
  }

  /** Makes a file that was written by other means durable; returns what it takes on the disk. */
  async sync(file: string): Promise<number> {
    const path = this.pathOf(file)
    try {
      await this.#durability.sync(path)
      return (await stat(path)).blocks * 512
    } catch (cause) {
      throw refused(`storing ${path} failed`, cause)
    }
  }

  /** Makes it a snapshot, or replaces the manifest of one; durable when this resolves. */
  async writeManifest(manifest: SnapshotManifest): Promise<void> {
    const next = `${MANIFEST}.next`
    try {
      await rm(this.pathOf(next), { force: true })
      await this.write(next, Buffer.from(formatManifest(manifest)))
      await this.#durability.sync(this.pathOf('ram'))
      await this.#durability.rename(this.pathOf(next), this.pathOf(MANIFEST))
      await this.#durability.sync(this.path)
      for (const made of this.#made) await this.#durability.sync(dirname(made))
    } catch (cause) {
      if (cause instanceof MultifdError) throw cause
      throw refused(`storing ${this.pathOf(MANIFEST)} failed`, cause)
    }
  }

  /** Removes what was stored; for a snapshot that did not come to be. */
  async remove(): Promise<void> {
    const files = [MANIFEST, `${MANIFEST}.next`, 'config.bin', 'devices.bin', 'ram']
    for (const file of files) await rm(this.pathOf(file), { recursive: true, force: true })
    for (const made of this.#made) await rmdir(made).catch(() => {})
  }
}

/**
 * The manifest of a snapshot. Sizes and hashes are not compared: see `verifySnapshot`.
 * @throws MultifdError ERR_MULTIFD_SNAPSHOT
 */
export async function readManifest(directory: string): Promise<SnapshotManifest> {
  const path = join(directory, MANIFEST)
  let text: string
  try {
    const { size } = await stat(path)
    if (size > MANIFEST_BYTES_MAX) throw new Error(`it has ${size} bytes`)
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    text = await file.readFile('utf8')
  } catch (cause) {
    const sentence =
      (cause as NodeJS.ErrnoException).code === 'ENOENT'
        ? `${directory} is no snapshot, or one that was never finished: it has no ${MANIFEST}`
        : `reading ${path} failed`
    throw refused(sentence, cause)
  }
  const manifest = parseManifest(text)
  if (manifest.ok) return manifest.value
  const { code, message } = manifest.error
  throw new MultifdError(code, `${path}: ${message}`)
}

/** What `verifySnapshot` found; it throws if anything is wrong. */
export interface VerifiedSnapshot {
  manifest: SnapshotManifest
  /** False: stored whole, but its receiver ended before hashing; only sizes were compared. */
  hashed: boolean
}

/**
 * Reads a snapshot's manifest and compares every file with it: presence, size and hashes.
 * @throws MultifdError ERR_MULTIFD_SNAPSHOT naming the file, ERR_MULTIFD_ABORTED
 */
export async function verifySnapshot(
  directory: string,
  options: { signal?: AbortSignal } = {},
): Promise<VerifiedSnapshot> {
  const manifest = await readManifest(directory)
  const files = snapshotFiles(manifest)
  for (const file of files) await checkSize(directory, file)
  const hashed = files.filter(({ hash }) => hash !== null)
  const found = await hashFiles(
    hashed.map(({ path, sizeBytes }) => ({ path: join(directory, path), sizeBytes })),
    { signal: options.signal },
  )
  for (const [index, file] of hashed.entries()) compareHash(directory, file, found[index])
  return { manifest, hashed: isHashed(manifest) }
}

async function checkSize(directory: string, file: SnapshotFile): Promise<void> {
  const path = join(directory, file.path)
  let size: number
  try {
    // Not through a link, and nothing that is no file: opening a pipe would wait for its writer.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK
    await using handle = await open(path, flags)
    const found = await handle.stat()
    if (!found.isFile()) throw new Error('it is not a file')
    size = found.size
  } catch (cause) {
    throw refused(`the snapshot's ${path} is missing or cannot be read`, cause)
  }
  if (size === file.sizeBytes) return
  throw new MultifdError(
    'ERR_MULTIFD_SNAPSHOT',
    `${path} has ${size} bytes, the manifest says ${file.sizeBytes}: it was cut or replaced; ` +
      'use another copy of the snapshot',
  )
}

function compareHash(
  directory: string,
  { path, hash }: SnapshotFile,
  found: SnapshotHash | undefined,
): void {
  if (hash === null || found === undefined || found.sha256 === hash.sha256) return
  const piece = found.pieces.findIndex((sha256, index) => sha256 !== hash.pieces[index])
  const where = piece < 0 ? 'its list of hashes' : `its piece ${piece} (16 MiB each, from 0)`
  throw new MultifdError(
    'ERR_MULTIFD_SNAPSHOT',
    `${join(directory, path)} is not what the manifest says, ${where} differs: it was altered or ` +
      'damaged; use another copy of the snapshot',
  )
}

/** The directories from `path` up to the first that mkdir made; their names have to last, too. */
function madeFor(path: string, first: string | undefined): string[] {
  if (first === undefined) return []
  const made = [resolve(path)]
  const top = resolve(first)
  for (let at = made[0] ?? top; at !== top && at.startsWith(top + sep); ) {
    at = dirname(at)
    made.push(at)
  }
  return made
}

function occupied(path: string, entry: string | undefined): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_SNAPSHOT',
    `the directory ${path} holds something already ("${entry}"): name one that is empty or not there`,
  )
}

function refused(sentence: string, cause: unknown): MultifdError {
  const { code, syscall, message } = cause as NodeJS.ErrnoException
  const kernel = code === undefined || syscall === undefined ? {} : { errno: code, syscall }
  const reason = code === 'ENOENT' ? '' : ` (${code ?? message})`
  return new MultifdError('ERR_MULTIFD_SNAPSHOT', `${sentence}${reason}`, { ...kernel, cause })
}
