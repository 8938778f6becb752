// One relay under test, between a recorded source and a destination made of plain sockets.

import { expect } from 'vitest'
import type { RelayProgress } from '../../src/relay/progress.ts'
import { type Relay, relay } from '../../src/relay/relay.ts'
import type { RelayOptions } from '../../src/relay/relay-options.ts'
import type { RawConnection } from '../migrate/raw-peer.ts'
import { QemuPeer, type Recording, recordingOf, withReturnPath } from '../snapshot/qemu-peer.ts'
import { vectorNamed } from '../wire/vectors.ts'
import { type DestinationBehaviour, RecordingDestination } from './recording-destination.ts'

/** Ends a hang of the test; no check depends on it. */
export const HANG_MS = 30_000

export class Relaying implements AsyncDisposable {
  readonly relay: Relay
  readonly source: QemuPeer
  readonly destination: RecordingDestination
  readonly #operator: AbortController

  private constructor(
    parts: Pick<Relaying, 'relay' | 'source' | 'destination'>,
    operator: AbortController,
  ) {
    this.relay = parts.relay
    this.source = parts.source
    this.destination = parts.destination
    this.#operator = operator
  }

  static async begin(
    options: RelayOptions = {},
    behaviour: DestinationBehaviour = {},
  ): Promise<Relaying> {
    const operator = new AbortController()
    const destination = await RecordingDestination.listen(behaviour)
    const started = relay('tcp:127.0.0.1:0', destination.uri, {
      handshakeTimeoutMs: HANG_MS,
      peerTimeoutMs: HANG_MS,
      signal: operator.signal,
      ...options,
    })
    started.result.catch(() => {})
    const source = new QemuPeer(await started.listening)
    return new Relaying({ relay: started, source, destination }, operator)
  }

  /** What the operator's Ctrl-C does. */
  abort(): void {
    this.#operator.abort()
  }

  /** The first event of that status; fails if the relay ends before. */
  async reaches(status: RelayProgress['status']): Promise<RelayProgress> {
    for await (const event of this.relay) if (event.status === status) return event
    throw new Error(`the relay ended ${this.relay.status}, expected ${status}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.abort()
    await this.source[Symbol.asyncDispose]() // in doubt, this ends it
    await this.destination[Symbol.asyncDispose]()
    await this.relay.result.catch(() => {})
  }
}

/** A recorded source with return path. */
export function recordedSource(name: string): Recording {
  return withReturnPath(recordingOf(vectorNamed(name)))
}

/** The relay failed so, and nothing says otherwise. */
export async function expectFailure(
  { relay: { result } }: Relaying,
  code: string,
  ...sentence: RegExp[]
): Promise<void> {
  const error = await result.then(
    () => new Error('the relay completed'),
    (reason: Error) => reason,
  )
  expect(error).toMatchObject({ code })
  for (const part of sentence) expect(error.message).toMatch(part)
}

const SHUT = (status: number): string => `00010004${status.toString(16).padStart(8, '0')}`

/** The source was told that the destination has its guest. */
export function expectSourceTold(main: RawConnection): void {
  expect(main.received.toString('hex').endsWith(SHUT(0))).toBe(true)
}

/** The source's guest resumes: it was told of a failure, or its connection was closed. */
export async function expectSourceResumes(main: RawConnection): Promise<void> {
  await main.gone
  expect(main.received.toString('hex')).not.toContain(SHUT(0))
}

/** The source stands still: connected, and without a word. */
export function expectSourceHeld(main: RawConnection): void {
  expect(main.received.toString('hex')).not.toContain('00010004')
  expect(main.socket.readableEnded || main.socket.destroyed).toBe(false)
}

/** The channel's stream, its first packet with pages again and again behind the setup SYNC. */
export function repeatPackets(stream: Uint8Array, bytes: number): Uint8Array {
  const opening = stream.subarray(0, 64 + 1344)
  const view = new DataView(stream.buffer, stream.byteOffset)
  const at = opening.length
  const packet = stream.subarray(at, at + 1344 + view.getUint32(at + 20))
  const repeated = new Uint8Array(opening.length + Math.ceil(bytes / packet.length) * packet.length)
  repeated.set(opening)
  for (let to = opening.length; to < repeated.length; to += packet.length) repeated.set(packet, to)
  return repeated
}
