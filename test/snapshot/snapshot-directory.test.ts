// A snapshot's directory: filled, sealed, read back, and refused when anything in it is wrong.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MultifdError } from '../../src/kit/errors.ts'
import {
  formatManifest,
  MANIFEST_FORMAT,
  PIECE_BYTES,
  parseManifest,
  ramFilePath,
  type SnapshotManifest,
} from '../../src/snapshot/manifest.ts'
import { hashBytes, hashFile } from '../../src/snapshot/piece-hashes.ts'
import {
  readManifest,
  SnapshotDirectory,
  verifySnapshot,
} from '../../src/snapshot/snapshot-directory.ts'

let scratch = ''
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-snapshot-'))
})
afterEach(() => rmSync(scratch, { recursive: true, force: true }))

/** A whole snapshot with one RAM block of this many bytes. */
async function store(path: string, sizeBytes = 3 * 4096): Promise<SnapshotManifest> {
  const directory = await SnapshotDirectory.create(path)
  const ram = Buffer.alloc(sizeBytes, 'contents')
  const files = { 'config.bin': Buffer.from('QEVM'), 'devices.bin': Buffer.from([4, 0, 0]) }
  await directory.write(ramFilePath(0, 'pc.ram'), ram)
  for (const [name, bytes] of Object.entries(files)) await directory.write(name, bytes)
  const file = (name: string, bytes: Uint8Array) => ({
    path: name,
    sizeBytes: bytes.length,
    populatedBytes: bytes.length,
    hash: hashBytes(bytes),
  })
  const manifest: SnapshotManifest = {
    format: MANIFEST_FORMAT,
    createdBy: 'multifd 0.0.0',
    createdAt: '2026-01-01T00:00:00.000Z',
    machine: 'pc-q35-7.2',
    uuid: null,
    dialect: 'per-section',
    received: { channels: 2, compression: 'none', returnPath: true },
    ramSection: { sectionId: 2, versionId: 4 },
    pageBytes: 4096,
    pieceBytes: PIECE_BYTES,
    ram: [{ idstr: 'pc.ram', ...file(ramFilePath(0, 'pc.ram'), ram) }],
    configuration: file('config.bin', files['config.bin']),
    devices: { ...file('devices.bin', files['devices.bin']), sectionBytes: null },
  }
  await directory.writeManifest(manifest)
  return manifest
}

async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => new Error('it was accepted'),
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof MultifdError)) throw error
  return `${error.code} ${error.message}`
}

describe('a snapshot directory', () => {
  it('is read back as it was stored', async () => {
    const manifest = await store(join(scratch, 'a/b'))
    expect(await readManifest(join(scratch, 'a/b'))).toEqual(manifest)
    expect(await verifySnapshot(join(scratch, 'a/b'))).toEqual({ manifest, hashed: true })
    expect(readdirSync(join(scratch, 'a/b')).sort()).toEqual([
      'config.bin',
      'devices.bin',
      'manifest.json',
      'ram',
    ])
  })

  it('is refused where something is already, and when two come at once', async () => {
    await store(scratch)
    expect(await refusal(SnapshotDirectory.create(scratch))).toMatch(/_SNAPSHOT .*holds something/)
    const twice = join(scratch, 'twice')
    const both = await Promise.allSettled([
      SnapshotDirectory.create(twice),
      SnapshotDirectory.create(twice),
    ])
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
  })

  it('is no snapshot before its manifest is there', async () => {
    await SnapshotDirectory.create(scratch)
    expect(await refusal(readManifest(scratch))).toMatch(/_SNAPSHOT .*never finished/)
  })

  it('leaves nothing when it is removed, but what was there before', async () => {
    const made = await SnapshotDirectory.create(join(scratch, 'made'))
    await made.write('config.bin', Buffer.from('x'))
    await made.remove()
    mkdirSync(join(scratch, 'there'))
    const there = await SnapshotDirectory.create(join(scratch, 'there'))
    await there.remove()
    await (await SnapshotDirectory.create(join(scratch, 'a/b/c'))).remove()
    expect(readdirSync(scratch)).toEqual(['there'])
    expect(readdirSync(join(scratch, 'there'))).toEqual([])
  })

  it('makes the names of all directories durable that were made for it', async () => {
    const manifest = await store(join(scratch, 'other'))
    const synced: string[] = []
    const directory = await SnapshotDirectory.create(join(scratch, 'other/../a/b/c'), {
      sync: async (path) => void synced.push(path),
      rename: async (from, to) => renameSync(from, to),
    })
    await directory.writeManifest(manifest)
    const parents = ['a/b', 'a', '.'].map((path) => join(scratch, path))
    expect(synced.slice(-3)).toEqual(parents.map((path) => path.replace(/\/$/, '')))
  })

  it('makes every file durable before the manifest gets its name', async () => {
    const order: string[] = []
    const directory = await SnapshotDirectory.create(join(scratch, 'ordered'), {
      sync: async (path) => void order.push(`sync ${path.slice(scratch.length)}`),
      rename: async (from, to) => {
        renameSync(from, to)
        order.push('rename')
      },
    })
    const manifest = await store(join(scratch, 'other'))
    await directory.write('config.bin', Buffer.from('x'))
    await directory.writeManifest(manifest)
    expect(order).toEqual([
      'sync /ordered/config.bin',
      'sync /ordered/manifest.json.next',
      'sync /ordered/ram',
      'rename',
      'sync /ordered',
      'sync ',
    ])
  })
})

describe('a snapshot that was changed', () => {
  const ram = ramFilePath(0, 'pc.ram')
  const changes: [string, (path: string) => void, RegExp][] = [
    ['a missing file', (path) => rmSync(join(path, 'devices.bin')), /devices\.bin is missing/],
    ['a truncated file', (path) => truncateSync(join(path, ram), 4096), /has 4096 bytes/],
    [
      'an altered file',
      (path) => {
        const bytes = readFileSync(join(path, ram))
        bytes[5000] = 1
        writeFileSync(join(path, ram), bytes)
      },
      /piece 0 .* differs: it was altered/,
    ],
    [
      'a link in the place of a file',
      (path) => {
        renameSync(join(path, 'config.bin'), join(path, 'elsewhere'))
        symlinkSync('elsewhere', join(path, 'config.bin'))
      },
      /config\.bin is missing or cannot be read \(ELOOP\)/,
    ],
    [
      'a pipe in the place of a file',
      (path) => {
        rmSync(join(path, 'devices.bin'))
        execFileSync('mkfifo', [join(path, 'devices.bin')])
      },
      /devices\.bin is missing or cannot be read/,
    ],
    ['no JSON', (path) => writeFileSync(join(path, 'manifest.json'), '{'), /damaged or not/],
  ]
  it.each(changes)('is refused: %s', async (_what, change, sentence) => {
    await store(scratch)
    change(scratch)
    expect(await refusal(verifySnapshot(scratch))).toMatch(/^ERR_MULTIFD_SNAPSHOT /)
    expect(await refusal(verifySnapshot(scratch))).toMatch(sentence)
  })

  it('is compared by its sizes alone when it was never hashed', async () => {
    const manifest = await store(scratch)
    const unhashed = { ...manifest, ram: manifest.ram.map((file) => ({ ...file, hash: null })) }
    writeFileSync(join(scratch, 'manifest.json'), formatManifest(unhashed))
    expect((await verifySnapshot(scratch)).hashed).toBe(false)
    truncateSync(join(scratch, ram), 0)
    expect(await refusal(verifySnapshot(scratch))).toMatch(/has 0 bytes/)
  })
})

// biome-ignore lint/suspicious/noExplicitAny: lies have any type
type Manifest = Record<string, any>

describe('a manifest', () => {
  const lies: [string, (fields: Manifest) => unknown, RegExp][] = [
    ['another format', (fields) => ({ ...fields, format: 2 }), /format 2/],
    ['no RAM', (fields) => ({ ...fields, ram: [] }), /0 blocks/],
    [
      'a path of its own choice',
      ({ configuration, ...fields }) => ({
        ...fields,
        configuration: { ...configuration, path: '../../etc/passwd' },
      }),
      /configuration\.path is "\.\.\/\.\.\/etc\/passwd", expected "config\.bin"/,
    ],
    [
      'a length of half a page',
      ({ ram, ...fields }) => ({ ...fields, ram: [{ ...ram[0], sizeBytes: 2048 }] }),
      /hashed pieces|whole pages/,
    ],
    ['a block twice', ({ ram, ...fields }) => ({ ...fields, ram: [ram[0], ram[0]] }), /two RAM/],
    ['a negative size', (fields) => ({ ...fields, ramSection: { sectionId: -1 } }), /-1, expected/],
    ['an array', () => [], /an array, expected an object/],
  ]
  it.each(lies)('is refused with %s', async (_what, lie, sentence) => {
    const text = formatManifest(await store(scratch))
    const parsed = parseManifest(JSON.stringify(lie(JSON.parse(text))))
    expect(parsed).toMatchObject({ ok: false, error: { code: 'ERR_MULTIFD_SNAPSHOT' } })
    if (!parsed.ok) expect(parsed.error.message).toMatch(sentence)
  })

  it('names files that no block name can lead out of their folder', () => {
    expect(ramFilePath(3, '/rom@etc/acpi/tables')).toBe('ram/3-_rom_etc_acpi_tables.bin')
    expect(ramFilePath(0, '../..')).toBe('ram/0-.._...bin')
    expect(ramFilePath(1, '\u00e9'.repeat(100))).toBe('ram/1-_.bin')
  })
})

describe('hashing a file', () => {
  it('gives each piece what sha256 says of it, whatever the number of threads', async () => {
    const path = join(scratch, 'large')
    const bytes = Buffer.alloc(2 * PIECE_BYTES + 4096)
    for (let at = 0; at < bytes.length; at += 8) bytes.writeDoubleLE(Math.random(), at)
    writeFileSync(path, bytes)
    const hash = await hashFile(path, bytes.length)
    const pieces = [0, 1, 2].map((index) => {
      const piece = bytes.subarray(index * PIECE_BYTES, (index + 1) * PIECE_BYTES)
      return createHash('sha256').update(piece).digest('hex')
    })
    expect(hash.pieces).toEqual(pieces)
    expect(hash).toEqual(hashBytes(bytes))
  })

  it('knows what a hole hashes to without reading it', async () => {
    const path = join(scratch, 'sparse')
    writeFileSync(path, 'data')
    truncateSync(path, 200 * PIECE_BYTES) // 3.1 GiB: reading it would take seconds
    const hash = await hashFile(path, 200 * PIECE_BYTES)
    const zeros = hashBytes(Buffer.alloc(PIECE_BYTES)).pieces[0]
    const first = Buffer.alloc(PIECE_BYTES)
    first.write('data')
    expect(hash.pieces[0]).toBe(hashBytes(first).pieces[0])
    expect(new Set(hash.pieces.slice(1))).toEqual(new Set([zeros]))
    expect(hash.pieces).toHaveLength(200)
    expect(await refusal(hashFile(path, 201 * PIECE_BYTES))).toMatch(
      /_SNAPSHOT .*expected at least/,
    )
  })

  it('refuses a file that is shorter than said, or not there', async () => {
    const path = join(scratch, 'short')
    writeFileSync(path, 'x')
    expect(await refusal(hashFile(path, 4096))).toMatch(/_SNAPSHOT .*ends at byte 1/)
    expect(await refusal(hashFile(join(scratch, 'none'), 1))).toMatch(/_SNAPSHOT .*ENOENT/)
  })

  it('stops when its caller cancels', async () => {
    const signal = AbortSignal.abort(new Error('no more'))
    expect(await refusal(hashFile(scratch, 1, { signal }))).toMatch(/_ABORTED/)
  })
})
