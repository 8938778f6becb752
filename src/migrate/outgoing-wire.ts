// The source's half of the conversation on the main channel: what is written, in order, and what
// the return path answers. It decides nothing; it knows wire and socket, not rounds.

import { MainChannel } from '../channel/main-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeCompression, NativeEndpoint } from '../kit/native.ts'
import { concatBytes } from '../wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../wire/configuration.ts'
import { formatOwnCapabilities, OWN_MACHINE_NAME } from '../wire/dialect.ts'
import {
  encodeCommit,
  encodeDeviceState,
  encodeEof,
  encodeOpenReturnPath,
  encodePing,
  encodeRamSectionEnd,
  encodeRamSectionPart,
  encodeRamSectionStart,
  encodeSectionFooter,
  encodeVmdescription,
} from '../wire/main-stream-writer.ts'
import {
  encodeEosWord,
  encodeFlushWord,
  encodeMemSizeWord,
  type RamBlockEntry,
} from '../wire/ram-words.ts'
import { type ReturnPathEvent, ReturnPathReader } from '../wire/return-path.ts'
import { buildVmdescription } from '../wire/vmdescription.ts'
import type { NamedDevice } from './vmm.ts'

/** Section ids of our own streams: RAM first, then the devices in order. */
const RAM_SECTION_ID = 1

/** The sync point that every channel's SYNC belongs to, and the end of the section's words. */
const FLUSH_AND_EOS = concatBytes(encodeFlushWord(), encodeEosWord())

export interface SavedDevice {
  device: NamedDevice
  state: Uint8Array
}

export class OutgoingWire {
  /** Resolves when the destination has loaded everything: SHUT(0), "ready". */
  readonly ready: Promise<void>
  /** Resolves when the destination ended its stream in an orderly way. */
  readonly ended: Promise<void>
  readonly #main: MainChannel
  readonly #fail: (error: MultifdError) => void
  readonly #reader = new ReturnPathReader()
  readonly #ready: Deferred<void>
  readonly #ended: Deferred<void>
  readonly #firstPong: Deferred<void> = deferred()
  /** When the PINGs went out that have no answer yet, oldest first. */
  readonly #pingsMs: number[] = []
  #roundTripMs = Number.POSITIVE_INFINITY
  #lastPing = 0
  #lastPong = -1
  #eofSent = false
  #committed = false

  private constructor(
    main: MainChannel,
    ready: Deferred<void>,
    ended: Deferred<void>,
    fail: (error: MultifdError) => void,
  ) {
    this.#main = main
    this.#ready = ready
    this.#ended = ended
    this.ready = ready.promise
    this.ended = ended.promise
    this.#fail = fail
  }

  /** Connects the main channel; `fail` hears of everything that goes wrong later. */
  static async connect(
    endpoint: NativeEndpoint,
    options: { timeoutMs: number; signal: AbortSignal; fail: (error: MultifdError) => void },
  ): Promise<OutgoingWire> {
    const { fail } = options
    let wire: OutgoingWire | undefined
    const main = await MainChannel.connect(endpoint, options, {
      data: (bytes) => wire?.received(bytes),
      ended: () => wire?.peerEnded(),
      failed: fail,
    })
    wire = new OutgoingWire(main, deferred(), deferred(), fail)
    return wire
  }

  /** Who we are, how many channels follow, what is in them, and the opened return path. */
  async begin(options: {
    channels: number
    compression: NativeCompression
    uuid: Uint8Array
  }): Promise<void> {
    const { channels, compression, uuid } = options
    await this.#main.write(
      concatBytes(
        encodeHeader(),
        encodeConfiguration({
          machineName: OWN_MACHINE_NAME,
          capabilities: formatOwnCapabilities({ channels, commit: true, compression }),
          uuid,
        }),
        encodeOpenReturnPath(),
        this.#ping(0),
      ),
    )
  }

  /** START: the block list and the sync point of setup. */
  async ramStart(blocks: readonly RamBlockEntry[]): Promise<void> {
    await this.#section(
      concatBytes(encodeRamSectionStart(RAM_SECTION_ID), encodeMemSizeWord(blocks)),
    )
  }

  /** PART: the sync point of a round, and a PING that is answered when it was collected. */
  async ramPart(round: number): Promise<void> {
    await this.#section(encodeRamSectionPart(RAM_SECTION_ID), this.#ping(round))
  }

  /** END: the sync point of the last round. Every page is on its way. */
  async ramEnd(): Promise<void> {
    await this.#section(encodeRamSectionEnd(RAM_SECTION_ID))
  }

  /** The devices, EOF and the description of what was sent. */
  async devicesAndEof(saved: readonly SavedDevice[]): Promise<void> {
    let sectionId = RAM_SECTION_ID
    for (const { device, state } of saved) {
      const { idstr, instanceId, versionId } = device
      sectionId += 1
      await this.#main.write(encodeDeviceState({ sectionId, idstr, instanceId, versionId }, state))
    }
    const description = buildVmdescription(
      saved.map(({ device, state }) => ({ ...device, payloadBytes: state.length })),
    )
    this.#eofSent = true
    await this.#main.write(concatBytes(encodeEof(), encodeVmdescription(description)))
  }

  /** Gives the guest up. Nothing may resume it here from this call on. */
  async commit(): Promise<void> {
    this.#committed = true
    await this.#main.write(encodeCommit())
  }

  /** Resolves with the first PONG: the destination's memory is empty and its channels are there. */
  get answered(): Promise<void> {
    return this.#firstPong.promise
  }

  get writtenBytes(): number {
    return this.#main.writtenBytes
  }
  get readBytes(): number {
    return this.#main.readBytes
  }
  /**
   * The shortest time from a PING to its PONG, milliseconds; 0 until there is one. The shortest, as
   * an answer may wait for the destination's own work: the first for its memory to be emptied,
   * those of rounds for the pages before them.
   */
  get roundTripMs(): number {
    return Number.isFinite(this.#roundTripMs) ? this.#roundTripMs : 0
  }

  async close(): Promise<void> {
    await this.#main.close()
  }
  destroy(): void {
    this.#main.destroy()
  }

  /** @internal */
  received(bytes: Uint8Array): void {
    const { events, error } = this.#reader.push(bytes)
    for (const event of events) this.#answered(event)
    if (error !== undefined) this.#fail(error)
  }

  /** @internal */
  peerEnded(): void {
    const end = this.#reader.end()
    if (this.#committed && end.ok) {
      this.#ended.resolve()
      return
    }
    this.#fail(
      end.ok
        ? new MultifdError(
            'ERR_MULTIFD_PEER_CLOSED',
            'the destination closed the main channel before it took the guest over: look for the ' +
              'reason there',
          )
        : end.error,
    )
  }

  #answered(event: ReturnPathEvent): void {
    if (event.kind === 'pong') {
      this.#ponged(event.value)
    } else if (event.kind === 'shut') {
      this.#shut(event.status)
    }
  }

  /** PINGs are numbered by round, and answered in order once the round's sync was collected. */
  #ponged(value: number): void {
    if (value !== this.#lastPong + 1 || value > this.#lastPing) {
      this.#refuse(`PONG ${value} came, expected ${this.#lastPong + 1}`)
      return
    }
    this.#lastPong = value
    this.#firstPong.resolve()
    const sentMs = this.#pingsMs.shift() ?? 0
    this.#roundTripMs = Math.min(this.#roundTripMs, performance.now() - sentMs)
  }

  #shut(status: number): void {
    if (status !== 0) {
      this.#fail(
        new MultifdError(
          'ERR_MULTIFD_PEER_CLOSED',
          `the destination reported that the migration failed there (SHUT ${status}): look for the ` +
            'reason there',
        ),
      )
    } else if (this.#eofSent && this.#lastPong === this.#lastPing) {
      this.#ready.resolve()
    } else {
      this.#refuse('the destination says that it is ready before it can have everything')
    }
  }

  #refuse(problem: string): void {
    this.#fail(new MultifdError('ERR_MULTIFD_PROTOCOL', `return path: ${problem}`))
  }

  #ping(value: number): Uint8Array {
    this.#pingsMs.push(performance.now())
    this.#lastPing = value
    return encodePing(value)
  }

  async #section(begin: Uint8Array, command: Uint8Array = new Uint8Array(0)): Promise<void> {
    await this.#main.write(
      concatBytes(begin, FLUSH_AND_EOS, encodeSectionFooter(RAM_SECTION_ID), command),
    )
  }
}
