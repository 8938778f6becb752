// SHA-256 of files in pieces, on threads of their own: hashing is the slowest thing a snapshot
// needs (about 1.3 GiB/s and thread), and the event loop has a migration to follow. Reads files,
// never guest memory: reading a hole of a mapping would populate it.

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { MultifdError } from '../kit/errors.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { native, toError } from '../kit/native.ts'
import { PIECE_BYTES, type SnapshotHash } from './manifest.ts'

/** More would only wait for the memory bus. */
const THREADS_MAX = 16

/** A file to hash: its first `sizeBytes`. */
export interface FileToHash {
  path: string
  sizeBytes: number
}

/** A range of a file, bytes. */
interface Piece {
  path: string
  offset: number
  length: number
}

/** What one thread answers for one piece. */
type Answer = { hash: Uint8Array } | { problem: string }

interface HashOptions {
  signal?: AbortSignal | undefined
}

/**
 * Hashes several files, with as many threads as there are processors for all of them together.
 * @throws MultifdError ERR_MULTIFD_SNAPSHOT if one cannot be read or is shorter,
 * ERR_MULTIFD_ABORTED
 */
export async function hashFiles(
  files: readonly FileToHash[],
  { signal }: HashOptions = {},
): Promise<SnapshotHash[]> {
  const lists: Uint8Array[][] = []
  const work: { piece: Piece; done: (hash: Uint8Array) => void }[] = []
  for (const file of files) {
    const hashes: Uint8Array[] = []
    lists.push(hashes)
    for (const [index, piece] of (await piecesOf(file)).entries()) {
      if (piece.hole) hashes[index] = hashOfZeros(piece.length)
      else work.push({ piece, done: (hash) => (hashes[index] = hash) })
    }
  }
  const hashSome = async (): Promise<void> => {
    await using thread = new HashThread()
    for (let one = work.shift(); one !== undefined; one = work.shift()) {
      if (signal?.aborted) throw aborted(signal)
      one.done(await thread.hash(one.piece))
    }
  }
  const threads = Math.min(work.length, availableParallelism(), THREADS_MAX)
  const ends = await Promise.allSettled(Array.from({ length: threads }, hashSome))
  for (const end of ends) if (end.status === 'rejected') throw end.reason
  return lists.map(combine)
}

/** As `hashFiles`, for one. */
export async function hashFile(
  path: string,
  sizeBytes: number,
  options: HashOptions = {},
): Promise<SnapshotHash> {
  const [hash] = await hashFiles([{ path, sizeBytes }], options)
  return hash ?? combine([])
}

/** The pieces of a file. A hole is known to be zero: it is not read. */
async function piecesOf({ path, sizeBytes }: FileToHash): Promise<(Piece & { hole: boolean })[]> {
  const pieces: (Piece & { hole: boolean })[] = []
  const mayHaveHoles = sizeBytes > PIECE_BYTES && sizeBytes % PAGE_SIZE_BYTES === 0
  for (let offset = 0; offset < sizeBytes; offset += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, sizeBytes - offset)
    pieces.push({ path, offset, length, hole: mayHaveHoles })
  }
  if (!mayHaveHoles) return pieces
  const ranges = await native().fileDataRanges(path, sizeBytes)
  if (!(ranges instanceof Float64Array)) throw unreadable(path, toError(ranges, 'asking').message)
  for (let at = 0; at < ranges.length; at += 2) {
    const [first = 0, length = 0] = ranges.subarray(at, at + 2)
    const last = Math.floor((first + length - 1) / PIECE_BYTES)
    for (let index = Math.floor(first / PIECE_BYTES); index <= last; index += 1) {
      const piece = pieces[index]
      if (piece !== undefined) piece.hole = false
    }
  }
  return pieces
}

const zeroHashes = new Map<number, Uint8Array>()

function hashOfZeros(length: number): Uint8Array {
  let hash = zeroHashes.get(length)
  if (hash === undefined) {
    hash = createHash('sha256').update(new Uint8Array(length)).digest()
    zeroHashes.set(length, hash) // at most the whole piece and some ends of files
  }
  return hash
}

/** The hash of bytes that are in memory, in the same form. */
export function hashBytes(bytes: Uint8Array): SnapshotHash {
  const hashes: Uint8Array[] = []
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    const piece = bytes.subarray(at, at + PIECE_BYTES)
    hashes.push(createHash('sha256').update(piece).digest())
  }
  return combine(hashes)
}

function combine(hashes: readonly Uint8Array[]): SnapshotHash {
  const all = createHash('sha256')
  for (const hash of hashes) all.update(hash)
  const pieces = hashes.map((hash) => Buffer.from(hash).toString('hex'))
  return { sha256: all.digest('hex'), pieces }
}

function aborted(signal: AbortSignal): MultifdError {
  return new MultifdError('ERR_MULTIFD_ABORTED', 'hashing was cancelled by its caller', {
    cause: signal.reason,
  })
}

function unreadable(path: string, problem: string): MultifdError {
  return new MultifdError('ERR_MULTIFD_SNAPSHOT', `hashing ${path} failed: ${problem}`)
}

/** One worker thread, and one piece at a time. */
class HashThread implements AsyncDisposable {
  // Its own source text, so that it runs from wherever this file was compiled to.
  readonly #worker = new Worker(`(${hashPieces})()`, { eval: true })

  async hash(piece: Piece): Promise<Uint8Array> {
    this.#worker.postMessage(piece)
    const answer = await this.#answer()
    if ('hash' in answer) return answer.hash
    throw unreadable(piece.path, answer.problem)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker.terminate()
  }

  /** A thread that dies is one that cannot read. */
  async #answer(): Promise<Answer> {
    try {
      const [answer] = await once(this.#worker, 'message')
      return answer
    } catch (error) {
      return { problem: error instanceof Error ? error.message : String(error) }
    }
  }
}

/** Runs in the worker, from its text: it may use nothing of this file. */
function hashPieces(): void {
  const { closeSync, openSync, readSync } = process.getBuiltinModule('node:fs')
  const crypto = process.getBuiltinModule('node:crypto')
  const { parentPort } = process.getBuiltinModule('node:worker_threads')
  const buffer = Buffer.alloc(256 * 1024) // stays in the cache
  const hashPiece = (fd: number, offset: number, length: number): object => {
    const hash = crypto.createHash('sha256')
    for (let done = 0; done < length; ) {
      const wanted = Math.min(buffer.length, length - done)
      const got = readSync(fd, buffer, 0, wanted, offset + done)
      if (got === 0) return { problem: `it ends at byte ${offset + done}` }
      hash.update(buffer.subarray(0, got))
      done += got
    }
    return { hash: hash.digest() }
  }
  parentPort?.on('message', ({ path, offset, length }) => {
    let fd: number | undefined
    try {
      fd = openSync(path, 'r')
      parentPort.postMessage(hashPiece(fd, offset, length))
    } catch (error) {
      parentPort.postMessage({ problem: error instanceof Error ? error.message : String(error) })
    } finally {
      if (fd !== undefined) closeSync(fd)
    }
  })
}
