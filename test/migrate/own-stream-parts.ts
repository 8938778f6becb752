// The pieces of one of our own streams as bytes, for peers that send them in any order, changed or
// cut.

import type { NativeCompression } from '../../src/kit/native.ts'
import { concatBytes } from '../../src/wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../../src/wire/configuration.ts'
import { formatOwnCapabilities, OWN_MACHINE_NAME } from '../../src/wire/dialect.ts'
import * as writer from '../../src/wire/main-stream-writer.ts'
import {
  encodeInitialPacket,
  encodeRamPacketHeader,
  encodeSyncPacket,
  type RamPacket,
} from '../../src/wire/packet.ts'
import {
  encodeEosWord,
  encodeFlushWord,
  encodeMemSizeWord,
  type RamBlockEntry,
} from '../../src/wire/ram-words.ts'
import { nilUuid } from '../../src/wire/uuid.ts'
import { buildVmdescription } from '../../src/wire/vmdescription.ts'
import { GUEST_BLOCK, GUEST_BYTES } from './guarded-guest.ts'

export const RAM_SECTION = 1
const FLUSH_AND_EOS = concatBytes(encodeFlushWord(), encodeEosWord())
const FOOTER = writer.encodeSectionFooter(RAM_SECTION)

/** Header, configuration and the opened return path. */
export function opening(options: {
  channels?: number
  compression?: NativeCompression
  uuid?: Uint8Array
  machineName?: string
  capabilities?: string[]
}): Uint8Array {
  const { channels = 1, uuid = nilUuid(), machineName = OWN_MACHINE_NAME } = options
  const own = { channels, commit: true, compression: options.compression ?? 'none' }
  const capabilities = options.capabilities ?? formatOwnCapabilities(own)
  return concatBytes(
    encodeHeader(),
    encodeConfiguration({ machineName, capabilities, uuid }),
    writer.encodeOpenReturnPath(),
  )
}

export function ramStart(
  blocks: RamBlockEntry[] = [{ idstr: GUEST_BLOCK, usedLength: GUEST_BYTES }],
): Uint8Array {
  return concatBytes(
    writer.encodeRamSectionStart(RAM_SECTION),
    encodeMemSizeWord(blocks),
    FLUSH_AND_EOS,
    FOOTER,
  )
}

export function ramPart(): Uint8Array {
  return concatBytes(writer.encodeRamSectionPart(RAM_SECTION), FLUSH_AND_EOS, FOOTER)
}

export function ramEnd(): Uint8Array {
  return concatBytes(writer.encodeRamSectionEnd(RAM_SECTION), FLUSH_AND_EOS, FOOTER)
}

export function device(idstr: string, versionId = 1, payload = Uint8Array.of(1, 2)): Uint8Array {
  return writer.encodeDeviceState({ sectionId: 2, idstr, instanceId: 0, versionId }, payload)
}

export function end(): Uint8Array {
  return concatBytes(writer.encodeEof(), writer.encodeVmdescription(buildVmdescription([])))
}

export const commit = writer.encodeCommit
export const sync = (): Uint8Array => encodeSyncPacket(1)

export function introduction(channelId: number, uuid: Uint8Array = nilUuid()): Uint8Array {
  return encodeInitialPacket({ channelId, uuid })
}

/** A packet of pages filled with 0x77, with fields overwritten. */
export function ramPacket(fields: Partial<RamPacket> = {}): Uint8Array {
  const normalOffsets = fields.normalOffsets ?? [0]
  return concatBytes(
    encodeRamPacketHeader({
      flags: 0,
      pagesAlloc: 128,
      nextPacketSize: normalOffsets.length * 4096,
      packetNum: 1,
      ramblock: GUEST_BLOCK,
      normalOffsets,
      zeroOffsets: [],
      ...fields,
    }),
    new Uint8Array(normalOffsets.length * 4096).fill(0x77),
  )
}

/** The bytes with big-endian words overwritten. */
export function patched(bytes: Uint8Array, ...words: [at: number, value: number][]): Uint8Array {
  const copy = bytes.slice()
  const view = new DataView(copy.buffer)
  for (const [at, value] of words) view.setUint32(at, value)
  return copy
}
