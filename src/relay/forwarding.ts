// The course of the main stream through a relay: from the source's first byte to the last one of
// the device state. Bytes go on as they came, but for three places: nothing leaves before the
// source said that it listens for answers; a sync point waits for its channels; and the device
// state is held until all of it is there, because with its end the destination can start the guest.

import { MultifdError } from '../kit/errors.ts'
import type { FirstError } from '../migrate/teardown.ts'
import { atTheSource, setCapability } from '../snapshot/qemu-commands.ts'
import { concatBytes } from '../wire/bytes.ts'
import { MIG_CMD_OPEN_RETURN_PATH } from '../wire/constants.ts'
import { type Dialect, DialectDetector, isOwnMachine } from '../wire/dialect.ts'
import type { RamBlockEntry } from '../wire/ram-words.ts'
import type { SourceStream, StreamStep } from './source-stream.ts'
import type { SyncGate } from './sync-gate.ts'

/** A PC's device state is 77 KB. What is larger is not held: it could be a device's own memory. */
const HELD_BYTES_MAX = 64 * 1024 * 1024

/** What forwarding works with; made, and taken down, by relay-session.ts. */
export interface ForwardingParts {
  first: FirstError
  source: SourceStream
  /** Undefined: multifd is off, and the stream has no sync points. */
  gate: SyncGate | undefined
  /** Opens the connections to the destination and sends it these bytes before anything else. */
  connect(opening: Uint8Array): Promise<void>
  write(bytes: Uint8Array): Promise<void>
  setBlocks(blocks: readonly RamBlockEntry[]): void
  /** A SYNC on every connection to the destination. */
  syncOut(): Promise<void>
  /** Lets the parked channels read on. */
  releaseSync(): void
  /** From here on the destination may come to have the guest. */
  handOver(): void
}

export class Forwarding {
  readonly #parts: ForwardingParts
  readonly #detector = new DialectDetector()
  #machine = ''
  #returnPath = false
  #connected = false
  #handedOver = false
  #over = false
  #held: Uint8Array[] = []
  #heldBytes = 0

  constructor(parts: ForwardingParts) {
    this.#parts = parts
  }

  get machine(): string {
    return this.#machine
  }
  get dialect(): Dialect | undefined {
    return this.#parts.gate === undefined ? undefined : this.#detector.dialect
  }

  /** Returns when the last byte was forwarded. */
  async run(): Promise<void> {
    const { first, source } = this.#parts
    try {
      while (!this.#over) await this.#forward(await first.unless(source.next()))
    } catch (error) {
      if (!this.#connected) throw withCommands(error)
      throw error
    }
  }

  async #forward({ event, bytes }: StreamStep): Promise<void> {
    const { gate, setBlocks } = this.#parts
    switch (event?.kind) {
      case 'configuration':
        this.#machine = event.machineName
        refuseOwn(event.machineName)
        break
      case 'command':
        if (event.command === MIG_CMD_OPEN_RETURN_PATH) this.#returnPath = true
        break
      case 'section-start':
        if (!this.#connected) await this.#connect()
        break
      case 'ram-mem-size':
        setBlocks(event.blocks)
        break
      case 'ram-flush':
      case 'ram-eos':
        if (gate !== undefined && this.#detector.observe(event.kind)) {
          return await this.#passSyncPoint(gate, bytes)
        }
        break
      case 'device-tail':
        return await this.#hold(bytes)
      case 'device-tail-end':
        this.#over = true
        return await this.#handOver()
    }
    if (this.#connected) await this.#write(bytes)
    else this.#keep(bytes)
  }

  async #connect(): Promise<void> {
    if (!this.#returnPath) throw noReturnPath()
    await this.#parts.first.unless(this.#parts.connect(this.#takeHeld()))
    this.#connected = true
  }

  /** SYNC packets first, then the word that collects them, as QEMU's order is. */
  async #passSyncPoint(gate: SyncGate, bytes: Uint8Array): Promise<void> {
    const { first, syncOut, releaseSync } = this.#parts
    await first.unless(gate.gather())
    await first.unless(syncOut())
    await this.#write(bytes)
    gate.pass()
    releaseSync()
  }

  async #hold(bytes: Uint8Array): Promise<void> {
    if (this.#handedOver) return await this.#write(bytes)
    this.#keep(bytes)
    const enough = this.#heldBytes > HELD_BYTES_MAX || this.#parts.source.mayEndHere
    if (enough) await this.#handOver()
  }

  async #handOver(): Promise<void> {
    if (this.#handedOver) return
    this.#handedOver = true
    const tail = this.#takeHeld()
    this.#parts.handOver()
    await this.#write(tail)
  }

  #keep(bytes: Uint8Array): void {
    this.#held.push(bytes)
    this.#heldBytes += bytes.length
  }

  #takeHeld(): Uint8Array {
    this.#heldBytes = 0
    return concatBytes(...this.#held.splice(0))
  }

  async #write(bytes: Uint8Array): Promise<void> {
    const { first, write } = this.#parts
    if (bytes.length > 0) await first.unless(write(bytes))
  }
}

function refuseOwn(machine: string): void {
  if (!isOwnMachine(machine)) return
  throw new MultifdError(
    'ERR_MULTIFD_UNSUPPORTED',
    `the source is one of this library's own (${machine}), expected a QEMU: let it migrate to its ` +
      'destination directly',
  )
}

function noReturnPath(): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_UNSUPPORTED',
    'the source has no return path, so it would give its guest up before the destination has it: ' +
      atTheSource(setCapability('return-path', true)),
  )
}

/** What the stream's reader refuses for what is switched on at the source, with the commands. */
function withCommands(error: unknown): unknown {
  if (!(error instanceof MultifdError) || error.code !== 'ERR_MULTIFD_UNSUPPORTED') return error
  if (!error.message.includes('post-copy')) return error
  const commands = atTheSource(setCapability('postcopy-ram', false))
  return new MultifdError(error.code, `${error.message}: ${commands}`, {
    cause: error,
  })
}
