// Real QEMU streams: read, replayed into memory and compared by hash, and written again byte for
// byte.

import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { concatBytes, viewOf } from '../../src/wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../../src/wire/configuration.ts'
import {
  MULTIFD_FLAG_SYNC,
  MULTIFD_FLAG_ZLIB,
  MULTIFD_FLAG_ZSTD,
} from '../../src/wire/constants.ts'
import { DialectDetector, dialectOfMachine } from '../../src/wire/dialect.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import * as writer from '../../src/wire/main-stream-writer.ts'
import {
  decodeInitialPacket,
  decodeRamPacketHeader,
  encodeInitialPacket,
  encodeRamPacketHeader,
  encodeSyncPacket,
  RAM_PACKET_HEADER_BYTES,
  type RamPacketHeader,
  type RamPacketRules,
} from '../../src/wire/packet.ts'
import {
  encodeEosWord,
  encodeFlushWord,
  encodeMemSizeWord,
  RamPageWords,
} from '../../src/wire/ram-words.ts'
import { describedDeviceBytes } from '../../src/wire/vmdescription.ts'
import { cutAt, fingerprint, readByteByByte, readPieces, readWhole } from './reading.ts'
import {
  loadStream,
  type ManifestStep,
  type ManifestWord,
  type Vector,
  vectorNamed,
  vectors,
} from './vectors.ts'

interface Packet {
  header: RamPacketHeader
  bytes: Uint8Array
  payload: Uint8Array
}

const COMPRESSION_FLAGS = { none: 0, zlib: MULTIFD_FLAG_ZLIB, zstd: MULTIFD_FLAG_ZSTD }

/** A channel's initial packet and its RAM packets with their payloads. */
function parseChannel(stream: Uint8Array, rules: RamPacketRules) {
  const initial = decodeInitialPacket(stream.subarray(0, 64))
  if (!initial.ok) throw initial.error
  const packets: Packet[] = []
  for (let at = 64; at < stream.length; ) {
    const bytes = stream.subarray(at, at + RAM_PACKET_HEADER_BYTES)
    const decoded = decodeRamPacketHeader(bytes, rules)
    if (!decoded.ok) throw decoded.error
    at += RAM_PACKET_HEADER_BYTES
    const payload = stream.subarray(at, at + decoded.value.nextPacketSize)
    packets.push({ header: decoded.value, bytes, payload })
    at += payload.length
  }
  return { initial: initial.value, packets }
}

/** Memory as a destination builds it: pages written and zeroed by name and offset. */
class Memory {
  readonly blocks = new Map<string, Uint8Array>()

  write(idstr: string, offset: number, page: Uint8Array | undefined): void {
    const block = this.blocks.get(idstr)
    if (block === undefined) throw new Error(`no block ${idstr}`)
    if (page === undefined) block.fill(0, offset, offset + 4096)
    else block.set(page, offset)
  }

  apply({ header, payload }: Packet): void {
    const { ramblock, normalOffsets, zeroOffsets } = header
    normalOffsets.forEach((offset, i) => {
      this.write(ramblock, offset, payload.subarray(i * 4096, (i + 1) * 4096))
    })
    for (const offset of zeroOffsets) this.write(ramblock, offset, undefined)
  }

  hashes(): Record<string, string> {
    const entries = [...this.blocks].map(([idstr, bytes]) => {
      return [idstr, createHash('sha256').update(bytes).digest('hex')]
    })
    return Object.fromEntries(entries)
  }
}

/** Replays a vector as a destination does, and counts its sync points. */
function replay(vector: Vector) {
  const { events } = readWhole(loadStream(vector.main.file))
  const memory = new Memory()
  const detector = new DialectDetector()
  const usedLength = (name: string) => memory.blocks.get(name)?.length
  const queues: Packet[][] = []
  let syncPoints = 0
  for (const event of events) {
    if (event.kind === 'ram-mem-size') {
      for (const { idstr, usedLength } of event.blocks) {
        memory.blocks.set(idstr, new Uint8Array(usedLength))
      }
      for (const { file } of vector.multifd) {
        queues.push(parseChannel(loadStream(file), { usedLength }).packets)
      }
    } else if (event.kind === 'ram-zero') memory.write(event.idstr, event.offset, undefined)
    else if (event.kind === 'ram-page') memory.write(event.idstr, event.offset, event.contents)
    else if (event.kind === 'ram-flush' || event.kind === 'ram-eos') {
      if (!detector.observe(event.kind)) continue
      syncPoints++
      for (const queue of queues) applyUpToSync(memory, queue)
    }
  }
  return { memory, syncPoints, dialect: detector.dialect, left: queues }
}

function applyUpToSync(memory: Memory, queue: Packet[]): void {
  for (let packet = queue.shift(); packet !== undefined; packet = queue.shift()) {
    memory.apply(packet)
    if (packet.header.flags & MULTIFD_FLAG_SYNC) return
  }
  throw new Error('a channel has fewer SYNC packets than the main channel has sync points')
}

/** The events before the device tail, written again; the writer must arrive at QEMU's own bytes. */
function rewrite(events: MainStreamEvent[]): Uint8Array {
  const pages = new RamPageWords()
  return concatBytes(...events.map((event) => rewriteOne(event, pages)))
}

function rewriteOne(event: MainStreamEvent, pages: RamPageWords): Uint8Array {
  switch (event.kind) {
    case 'header':
      return encodeHeader()
    case 'configuration':
      return encodeConfiguration(event)
    case 'section-start':
      if (event.type === 'start') return writer.encodeRamSectionStart(event.sectionId)
      if (event.type === 'part') return writer.encodeRamSectionPart(event.sectionId)
      return writer.encodeRamSectionEnd(event.sectionId)
    case 'ram-mem-size':
      return encodeMemSizeWord(event.blocks)
    case 'ram-zero':
      return pages.zero(event.idstr, event.offset)
    case 'ram-flush':
      return encodeFlushWord()
    case 'ram-eos':
      return encodeEosWord()
    case 'section-end':
      return writer.encodeSectionFooter(event.sectionId)
    case 'command':
      if (event.command === 2) return writer.encodePing(viewOf(event.data).getUint32(0))
      return event.command === 1 ? writer.encodeOpenReturnPath() : writer.encodeSwitchoverStart()
    default:
      return new Uint8Array(0)
  }
}

/**
 * The events in the manifest's terms, runs of zero words merged, the tail's sections by its JSON.
 */
function sequenceOf(events: MainStreamEvent[], tailAt: number): unknown[] {
  const steps: unknown[] = []
  let words: unknown[] = []
  for (const event of events) {
    if (event.kind === 'configuration') steps.push({ config: event.machineName })
    else if (event.kind === 'command') {
      steps.push({ command: event.command, data: Buffer.from(event.data).toString('hex') })
    } else if (event.kind === 'section-start') {
      words = []
      steps.push({ section: event.type.toUpperCase(), id: event.sectionId, name: 'ram', words })
    } else if (event.kind === 'ram-mem-size') {
      const blocks = event.blocks.map(({ idstr, usedLength }) => [idstr, usedLength])
      words.push({ mem_size: event.totalBytes, blocks })
    } else if (event.kind === 'ram-zero') addZero(words, event)
    else if (event.kind === 'ram-flush') words.push('flush')
    else if (event.kind === 'ram-eos') words.push('eos')
    else if (event.kind === 'device-tail-end') {
      let at = tailAt
      for (const device of JSON.parse(event.vmdescription).devices) {
        steps.push({ section: 'FULL', name: device.name, instance: device.instance_id, at })
        at += describedDeviceBytes(JSON.stringify({ devices: [device] })) ?? Number.NaN
      }
      steps.push('EOF', { vmdescription_bytes: event.vmdescription.length })
    }
  }
  return steps
}

function addZero(words: unknown[], { idstr, offset }: { idstr: string; offset: number }): void {
  const last = words.at(-1) as { zero?: number; block?: string; last?: number } | undefined
  if (last?.zero !== undefined && last.block === idstr) {
    last.zero++
    last.last = offset
  } else words.push({ zero: 1, block: idstr, first: offset, last: offset })
}

/** The manifest's sequence without what events do not say. */
function manifestSequence(sequence: ManifestStep[]): unknown[] {
  return sequence.map((step) => {
    if (step === 'EOF' || !('section' in step)) {
      return step !== 'EOF' && 'config' in step ? { config: step.config } : step
    }
    const { section, id, name, instance, at } = step
    if (section === 'FULL') return { section, name, instance, at }
    return { section, id, name, words: step.words.map(withoutNames) }
  })
}

function withoutNames(word: ManifestWord): unknown {
  if (typeof word === 'string' || !('zero' in word)) return word
  const { names_on_wire: _, ...rest } = word
  return rest
}

describe.each(vectors.map((vector) => [vector.name, vector] as const))('%s', (_name, vector) => {
  const main = loadStream(vector.main.file)
  const tailAt = vector.main.device_tail_at

  it('is read to its end, in the order its manifest says', () => {
    const { events, error, end } = readWhole(main)
    expect(error).toBeUndefined()
    expect(end).toEqual({ vmdescription: true, committed: false })
    expect(sequenceOf(events, tailAt)).toEqual(manifestSequence(vector.main.sequence))
    const tail = events.find((event) => event.kind === 'device-tail')
    expect(tail?.bytes).toEqual(main.subarray(tailAt))
  })

  // Compressed payloads are for test/payload/vectors.test.ts.
  it.runIf(vector.compression === 'none')('rebuilds the memory of the source', () => {
    const { memory, syncPoints, dialect, left } = replay(vector)
    expect(memory.hashes()).toEqual(vector.rebuilt_sha256)
    expect(syncPoints).toBe(vector.sync_points)
    expect(dialect).toBe(dialectOfMachine(vector.machine))
    for (const packet of left.flat()) {
      expect(packet.header.normalPages + packet.header.zeroPages).toBe(0)
    }
  })

  it('is written again byte for byte up to the devices', () => {
    const { events } = readWhole(main)
    expect(rewrite(events)).toEqual(main.subarray(0, tailAt))
  })

  it('has packets that decode to its manifest and encode to its bytes', () => {
    const compressionFlag = COMPRESSION_FLAGS[vector.compression]
    for (const { id, file, packets: listed } of vector.multifd) {
      const stream = loadStream(file)
      const { initial, packets } = parseChannel(stream, { compressionFlag })
      expect(initial.channelId).toBe(id)
      expect(encodeInitialPacket(initial)).toEqual(stream.subarray(0, 64))
      expect(packets.map(({ header, payload }) => summary(header, payload))).toEqual(
        listed.map((p) => ({
          flags: p.flags,
          pagesAlloc: p.pages_alloc,
          normalPages: p.normal,
          zeroPages: p.zero,
          packetNum: p.packet_num,
          ramblock: p.normal + p.zero === 0 ? '' : p.ramblock,
          payloadBytes: p.payload_bytes,
        })),
      )
      for (const { header, bytes } of packets) expectSameBytes(vector, header, bytes)
    }
  })

  it('gives the same events however it is split', () => {
    const whole = fingerprint(readWhole(main))
    expect(fingerprint(readByteByByte(main))).toBe(whole)
    const cuts = Array.from({ length: Math.ceil(main.length / 997) }, (_, i) => i * 997)
    expect(fingerprint(readPieces(cutAt(main, cuts)))).toBe(whole)
  })
})

function summary(header: RamPacketHeader, payload: Uint8Array) {
  const { flags, pagesAlloc, normalPages, zeroPages, packetNum, ramblock } = header
  const payloadBytes = payload.length
  return { flags, pagesAlloc, normalPages, zeroPages, packetNum, ramblock, payloadBytes }
}

/** 7.2 leaves stale bytes behind what it fills in; there the values must come back instead. */
function expectSameBytes(vector: Vector, header: RamPacketHeader, bytes: Uint8Array): void {
  const again = encodeRamPacketHeader(header)
  if (vector.name.startsWith('q72')) {
    const compressionFlag = COMPRESSION_FLAGS[vector.compression]
    expect(decodeRamPacketHeader(again, { compressionFlag })).toEqual({ ok: true, value: header })
    return
  }
  expect(again).toEqual(bytes)
  if (header.flags & MULTIFD_FLAG_SYNC) expect(encodeSyncPacket(header.packetNum)).toEqual(bytes)
}

describe('a recorded stream that is cut off', () => {
  it.each(['q72-legacy-none', 'q102-modern-returnpath'])('%s: at every byte', (name) => {
    const vector = vectorNamed(name)
    const main = loadStream(vector.main.file)
    const last = vector.main.sequence.at(-1)
    const described = typeof last === 'object' && 'vmdescription_bytes' in last
    const jsonBytes = described ? last.vmdescription_bytes : Number.NaN
    // Behind EOF a machine that sends no vmdescription would be complete.
    const legal = [main.length - jsonBytes - 5, main.length]
    const reader = new MainStreamReader()
    const complete: number[] = []
    for (let length = 0; length <= main.length; length++) {
      if (length > 0) {
        const { error } = reader.push(main.subarray(length - 1, length))
        expect(error).toBeUndefined()
      }
      const end = reader.end()
      if (end.ok) complete.push(length)
      else {
        expect(end.error.code).toBe('ERR_MULTIFD_PEER_CLOSED')
        expect(end.error.message).toContain(`ended at byte ${length} while reading`)
      }
    }
    expect(complete).toEqual(legal)
  })

  it('is incomplete for a fresh reader too, at every byte before the devices', () => {
    const vector = vectorNamed('q72-legacy-none')
    const main = loadStream(vector.main.file)
    for (let length = 0; length <= vector.main.device_tail_at; length++) {
      const outcome = readWhole(main.subarray(0, length))
      expect(outcome.error).toBeUndefined()
      expect(outcome.end).toMatch(/^ERR_MULTIFD_PEER_CLOSED /)
    }
  })

  it('is refused when bytes follow its end', () => {
    const main = loadStream(vectorNamed('q102-modern-none').main.file)
    const { error } = readWhole(concatBytes(main, Uint8Array.of(0x08)))
    expect(error).toMatch(/got the byte 0x08 behind the end of the stream/)
  })
})
