// Feeding the main-stream reader in tests, and what comes out made comparable.

import { concatBytes } from '../../src/wire/bytes.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { type MainStreamEnd, MainStreamReader } from '../../src/wire/main-stream-reader.ts'

/** Everything a stream leads to, as plain values. */
export interface Outcome {
  events: MainStreamEvent[]
  error: string | undefined
  end: MainStreamEnd | string
}

/** Reads a whole stream in the given pieces. */
export function readPieces(pieces: Iterable<Uint8Array>): Outcome {
  const reader = new MainStreamReader()
  const events: MainStreamEvent[] = []
  let error: string | undefined
  for (const piece of pieces) {
    const reading = reader.push(piece)
    events.push(...reading.events)
    error =
      reading.error === undefined ? undefined : `${reading.error.code} ${reading.error.message}`
  }
  const end = reader.end()
  return {
    events: joinTail(events.flatMap(singlePages)),
    error,
    end: end.ok ? end.value : `${end.error.code} ${end.error.message}`,
  }
}

/** How words are gathered into runs follows the pushes; only the pages are compared. */
function singlePages(event: MainStreamEvent): MainStreamEvent[] {
  if (event.kind !== 'ram-zero' && event.kind !== 'ram-page') return [event]
  const pages = event.kind === 'ram-zero' ? event.pages : event.contents.length / 4096
  return Array.from({ length: pages }, (_, page) => {
    const offset = event.offset + page * 4096
    if (event.kind === 'ram-zero') return { ...event, offset, pages: 1 }
    return { ...event, offset, contents: event.contents.slice(page * 4096, (page + 1) * 4096) }
  })
}

/** The cuts of device-tail events follow the pushes; only their concatenation is compared. */
function joinTail(events: MainStreamEvent[]): MainStreamEvent[] {
  const tail = events.flatMap((event) => (event.kind === 'device-tail' ? [event.bytes] : []))
  if (tail.length === 0) return events
  const first = events.findIndex((event) => event.kind === 'device-tail')
  const others: MainStreamEvent[] = events.filter((event) => event.kind !== 'device-tail')
  return others.toSpliced(first, 0, { kind: 'device-tail', bytes: concatBytes(...tail) })
}

export function readWhole(bytes: Uint8Array): Outcome {
  return readPieces([bytes])
}

export function readByteByByte(bytes: Uint8Array): Outcome {
  return readPieces(singleBytes(bytes))
}

function* singleBytes(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at++) yield bytes.subarray(at, at + 1)
}

/** Cuts bytes at the given positions, in any order and possibly beyond the end. */
export function cutAt(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const sorted = [...cuts, bytes.length]
    .map((cut) => Math.min(cut, bytes.length))
    .sort((a, b) => a - b)
  let from = 0
  return sorted.map((to) => {
    const piece = bytes.subarray(from, to)
    from = to
    return piece
  })
}

/**
 * An Outcome as one comparable text: bytes as base64 are far quicker to compare than element by
 * element.
 */
export function fingerprint(outcome: Outcome): string {
  return JSON.stringify(outcome, (_key, value) =>
    value instanceof Uint8Array ? `base64:${Buffer.from(value).toString('base64')}` : value,
  )
}
