// A QEMU source made of recorded bytes and plain sockets: it plays a vector to whoever listens, in
// the order a test wants, and keeps what it is answered.

import { concatBytes } from '../../src/wire/bytes.ts'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import { encodeOpenReturnPath, encodePing } from '../../src/wire/main-stream-writer.ts'
import { RawConnection } from '../migrate/raw-peer.ts'
import { loadStream, type Vector } from '../wire/vectors.ts'

/** The bytes of one source, main channel first. */
export interface Recording {
  main: Uint8Array
  channels: Uint8Array[]
}

export function recordingOf(vector: Vector): Recording {
  return {
    main: loadStream(vector.main.file),
    channels: vector.multifd.map(({ file }) => loadStream(file)),
  }
}

/** Where the header and the configuration of a main stream end. */
export function openingBytes(main: Uint8Array): number {
  const reader = new MainStreamReader()
  reader.push(main)
  const { openingBytes: found } = reader
  if (found === undefined) throw new Error('the stream has no configuration')
  return found
}

/** The stream with these bytes behind its configuration. */
export function withCommand(main: Uint8Array, ...command: Uint8Array[]): Uint8Array {
  const at = openingBytes(main)
  return concatBytes(main.subarray(0, at), ...command, main.subarray(at))
}

/** The recording of a source that waits for our word; the vectors' sources mostly did not. */
export function withReturnPath({ main, channels }: Recording): Recording {
  return { main: withCommand(main, encodeOpenReturnPath(), encodePing(0xabcd)), channels }
}

export class QemuPeer implements AsyncDisposable {
  readonly #uri: string
  readonly #open: RawConnection[] = []

  constructor(uri: string) {
    this.#uri = uri
  }

  async connect(...bytes: Uint8Array[]): Promise<RawConnection> {
    const connection = await RawConnection.to(this.#uri)
    this.#open.push(connection)
    // As a QEMU, which is done when it was told so, in either way.
    connection.socket.on('data', () => {
      const said = connection.received.subarray(-8).toString('hex')
      if (said.startsWith('00010004')) connection.end()
    })
    return connection.send(...bytes)
  }

  /** Everything at once; the connections stay open. Returns the main one. */
  async play({ main, channels }: Recording): Promise<RawConnection> {
    const connection = await this.connect(main)
    for (const channel of channels) await this.connect(channel)
    return connection
  }

  /** As a process that was killed. */
  kill(): void {
    for (const { socket } of this.#open) socket.resetAndDestroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#open.map((connection) => connection.destroy()))
  }
}
