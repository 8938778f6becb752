// Access to the recorded streams in test/vectors for tests. Types say only what the tests read.

import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'

export type ManifestWord =
  | 'eos'
  | 'flush'
  | { mem_size: number; blocks: [string, number][] }
  | { zero: number; block: string; first: number; last: number; names_on_wire: number }

export type ManifestStep =
  | 'EOF'
  | { config: string; subsections: string[] }
  | { command: number; data: string }
  | {
      section: 'START' | 'PART' | 'END' | 'FULL'
      id: number
      name: string
      instance: number
      version: number
      at: number
      words: ManifestWord[]
    }
  | { vmdescription_bytes: number }

export interface ManifestPacket {
  at: number
  flags: number
  pages_alloc: number
  normal: number
  zero: number
  next_packet_size: number
  packet_num: number
  ramblock: string
  first_offset: number | null
  payload_bytes: number
}

export interface Vector {
  name: string
  machine: string
  dialect: string
  channels: number
  compression: 'none' | 'zlib' | 'zstd'
  main: { file: string; length: number; device_tail_at: number; sequence: ManifestStep[] }
  multifd: { id: number; file: string; packets: ManifestPacket[] }[]
  sync_points: number
  rebuilt_sha256: Record<string, string>
}

const FOLDER = new URL('../vectors/', import.meta.url)

export const vectors: Vector[] = JSON.parse(
  readFileSync(new URL('manifest.json', FOLDER), 'utf8'),
).vectors

export function vectorNamed(name: string): Vector {
  const vector = vectors.find((candidate) => candidate.name === name)
  if (vector === undefined) throw new Error(`there is no vector ${name}`)
  return vector
}

export function loadStream(file: string): Uint8Array {
  return new Uint8Array(gunzipSync(readFileSync(new URL(file, FOLDER))))
}
