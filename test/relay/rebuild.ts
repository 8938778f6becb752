// RAM as a destination builds it from the bytes of its connections, and its hashes, to be compared
// with a recording's manifest.

import { createHash } from 'node:crypto'
import { MULTIFD_FLAG_SYNC } from '../../src/wire/constants.ts'
import { DialectDetector } from '../../src/wire/dialect.ts'
import { decodeRamPacketHeader, RAM_PACKET_HEADER_BYTES } from '../../src/wire/packet.ts'
import { readWhole } from '../wire/reading.ts'

const PAGE_BYTES = 4096

interface Packet {
  idstr: string
  normal: readonly number[]
  zero: readonly number[]
  payload: Uint8Array
  sync: boolean
  packetNum: number | bigint
}

export interface Rebuilt {
  hashes: Record<string, string>
  syncPoints: number
  packetNums: number[]
  /** Packets that carry neither pages nor a SYNC, and SYNCs with pages. */
  odd: number
}

/** Throws where a channel has another number of SYNCs than the main channel has sync points. */
export function rebuild(main: Uint8Array, channels: readonly Uint8Array[]): Rebuilt {
  const blocks = new Map<string, Uint8Array>()
  const detector = new DialectDetector()
  let queues: Packet[][] | undefined
  let syncPoints = 0
  const all: Packet[] = []
  const apply = ({ idstr, normal, zero, payload }: Packet): void => {
    const block = blocks.get(idstr)
    normal.forEach((offset, index) => {
      block?.set(payload.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES), offset)
    })
    for (const offset of zero) block?.fill(0, offset, offset + PAGE_BYTES)
  }
  for (const event of readWhole(main).events) {
    if (event.kind === 'ram-mem-size') {
      for (const { idstr, usedLength } of event.blocks) {
        blocks.set(idstr, new Uint8Array(usedLength))
      }
      queues = channels.map((bytes) => packetsOf(bytes, (idstr) => blocks.get(idstr)?.length))
      all.push(...queues.flat())
    } else if (event.kind === 'ram-zero') {
      blocks.get(event.idstr)?.fill(0, event.offset, event.offset + event.pages * PAGE_BYTES)
    } else if (event.kind === 'ram-page') {
      blocks.get(event.idstr)?.set(event.contents, event.offset)
    } else if (event.kind === 'ram-flush' || event.kind === 'ram-eos') {
      if (!detector.observe(event.kind)) continue
      syncPoints += 1
      for (const queue of queues ?? []) {
        let packet: Packet | undefined
        do {
          packet = queue.shift()
          if (packet === undefined) throw new Error(`a SYNC is missing at sync point ${syncPoints}`)
          apply(packet)
        } while (!packet.sync)
      }
    }
  }
  if (queues?.some((queue) => queue.length > 0)) throw new Error('packets are left over')
  return {
    hashes: Object.fromEntries(
      [...blocks].map(([idstr, bytes]) => [
        idstr,
        createHash('sha256').update(bytes).digest('hex'),
      ]),
    ),
    syncPoints,
    packetNums: all.map(({ packetNum }) => Number(packetNum)).sort((a, b) => a - b),
    odd: all.filter(({ sync, normal, zero }) => sync === normal.length + zero.length > 0).length,
  }
}

function packetsOf(
  stream: Uint8Array,
  usedLength: (idstr: string) => number | undefined,
): Packet[] {
  const packets: Packet[] = []
  for (let at = 64; at < stream.length; ) {
    const bytes = stream.subarray(at, at + RAM_PACKET_HEADER_BYTES)
    const decoded = decodeRamPacketHeader(bytes, { usedLength })
    if (!decoded.ok) throw decoded.error
    const { ramblock, normalOffsets, zeroOffsets, nextPacketSize, flags, packetNum } = decoded.value
    at += RAM_PACKET_HEADER_BYTES
    packets.push({
      idstr: ramblock,
      normal: normalOffsets,
      zero: zeroOffsets,
      payload: stream.subarray(at, at + nextPacketSize),
      sync: (flags & MULTIFD_FLAG_SYNC) !== 0,
      packetNum,
    })
    at += nextPacketSize
  }
  return packets
}
