// The packets of simulated channels: as in the wire format a header, then pages, but a page is
// eight bytes. What is simulated is when they come and whether they come whole, not their format.

/** Front of a connection of a channel: a mark, its id and the UUID. */
export const INTRODUCTION_BYTES = 18
export const CHANNEL_MARK = 0x11
/** First byte of a main channel ("QEVM"). */
export const MAIN_MARK = 0x51

export const PAGE_BYTES = 8
export const HEADER_BYTES = 12

export type PacketHeader =
  | { kind: 'pages'; block: number; normal: number; zero: number }
  | { kind: 'sync' }
  | { kind: 'device'; nameBytes: number; instanceId: number; payloadBytes: number }

const KINDS = ['pages', 'sync', 'device'] as const

export function encodeIntroduction(channelId: number, uuid: Uint8Array): Uint8Array {
  return Uint8Array.from([CHANNEL_MARK, channelId, ...uuid])
}

export function encodeHeader(header: PacketHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, KINDS.indexOf(header.kind))
  if (header.kind === 'pages') {
    view.setUint8(1, header.block)
    view.setUint16(4, header.normal)
    view.setUint16(6, header.zero)
  } else if (header.kind === 'device') {
    view.setUint8(1, header.nameBytes)
    view.setUint32(4, header.instanceId)
    view.setUint32(8, header.payloadBytes)
  }
  return bytes
}

export function decodeHeader(bytes: Uint8Array): PacketHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const kind = KINDS[view.getUint8(0)] ?? 'sync'
  if (kind === 'sync') return { kind }
  if (kind === 'pages') {
    return { kind, block: view.getUint8(1), normal: view.getUint16(4), zero: view.getUint16(6) }
  }
  const [nameBytes, instanceId] = [view.getUint8(1), view.getUint32(4)]
  return { kind, nameBytes, instanceId, payloadBytes: view.getUint32(8) }
}

export function encodePages(
  block: number,
  normal: readonly { page: number; version: number }[],
  zero: readonly number[],
): Uint8Array {
  const header = encodeHeader({ kind: 'pages', block, normal: normal.length, zero: zero.length })
  const indices = [...normal.map(({ page }) => page), ...zero]
  const bytes = new Uint8Array(HEADER_BYTES + 2 * indices.length + PAGE_BYTES * normal.length)
  bytes.set(header)
  const view = new DataView(bytes.buffer)
  for (const [at, page] of indices.entries()) view.setUint16(HEADER_BYTES + 2 * at, page)
  const pagesAt = HEADER_BYTES + 2 * indices.length
  for (const [at, { version }] of normal.entries())
    view.setUint32(pagesAt + PAGE_BYTES * at, version)
  return bytes
}
