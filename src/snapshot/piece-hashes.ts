// SHA-256 of files in pieces, on threads of their own: hashing is the slowest thing a snapshot
// needs (about 1.3 GiB/s and thread), and the event loop has a migration to follow. Reads files,
// never guest memory: reading a hole of a mapping would populate it.

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { MultifdError } from '../kit/errors.ts'
import { PIECE_BYTES, type SnapshotHash } from './manifest.ts'

/** More would only wait for the memory bus. */
const THREADS_MAX = 16

/** A range of a file, bytes. */
interface Piece {
  offset: number
  length: number
}

/** What one thread answers for one piece. */
type Answer = { hash: Uint8Array } | { problem: string }

/**
 * Hashes the first `sizeBytes` of a file.
 * @throws MultifdError ERR_MULTIFD_SNAPSHOT if it cannot be read or is shorter, ERR_MULTIFD_ABORTED
 */
export async function hashFile(
  path: string,
  sizeBytes: number,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<SnapshotHash> {
  const count = Math.ceil(sizeBytes / PIECE_BYTES)
  const hashes: Uint8Array[] = new Array(count)
  let next = 0
  const takeOne = (): number | undefined => (next < count ? next++ : undefined)
  const hashSome = async (): Promise<void> => {
    await using thread = new HashThread(path)
    for (let index = takeOne(); index !== undefined; index = takeOne()) {
      if (options.signal?.aborted) throw aborted(options.signal)
      const offset = index * PIECE_BYTES
      hashes[index] = await thread.hash({
        offset,
        length: Math.min(PIECE_BYTES, sizeBytes - offset),
      })
    }
  }
  const threads = Math.min(count, availableParallelism(), THREADS_MAX)
  const ends = await Promise.allSettled(Array.from({ length: threads }, hashSome))
  for (const end of ends) if (end.status === 'rejected') throw end.reason
  return combine(hashes)
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

/** One worker thread with the file open, and one piece at a time. */
class HashThread implements AsyncDisposable {
  readonly #path: string
  readonly #worker: Worker

  constructor(path: string) {
    this.#path = path
    // Its own source text, so that it runs from wherever this file was compiled to.
    this.#worker = new Worker(`(${hashPieces})()`, { eval: true, workerData: { path } })
  }

  async hash(piece: Piece): Promise<Uint8Array> {
    this.#worker.postMessage(piece)
    const answer = await this.#answer()
    if ('hash' in answer) return answer.hash
    throw new MultifdError(
      'ERR_MULTIFD_SNAPSHOT',
      `hashing ${this.#path} failed: ${answer.problem}`,
    )
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
  const { openSync, readSync } = process.getBuiltinModule('node:fs')
  const crypto = process.getBuiltinModule('node:crypto')
  const { parentPort, workerData } = process.getBuiltinModule('node:worker_threads')
  const buffer = Buffer.alloc(256 * 1024) // stays in the cache
  let fd: number | undefined
  const answer = ({ offset, length }: { offset: number; length: number }): object => {
    fd ??= openSync(workerData.path, 'r')
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
  parentPort?.on('message', (piece) => {
    try {
      parentPort.postMessage(answer(piece))
    } catch (error) {
      parentPort.postMessage({ problem: error instanceof Error ? error.message : String(error) })
    }
  })
}
