// The source's half of the conversation on the main channel: what is written, in order, and what
// the return path answers. It decides nothing; it knows wire and socket, not rounds.

import type { MainChannelListener, MainStream } from '../channel/main-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeCompression } from '../kit/native.ts'
import { concatBytes } from '../wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../wire/configuration.ts'
import { formatOwnCapabilities, OWN_MACHINE_NAME } from '../wire/dialect.ts'
import type { SectionName } from '../wire/main-stream-events.ts'
import {
  encodeCancel,
  encodeCommit,
  encodeDeviceEnd,
  encodeDevicePart,
  encodeDeviceStart,
  encodeDeviceState,
  encodeEof,
  encodeOpenReturnPath,
  encodePing,
  encodeRamSectionEnd,
  encodeRamSectionPart,
  encodeRamSectionStart,
  encodeSectionFooter,
  encodeSwitchoverStart,
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
import type { SavedState } from './device-saver.ts'
import type { NamedHandler } from './named-handler.ts'

/** Section ids of our own streams: RAM first, then the devices in order. */
const RAM_SECTION_ID = 1

/** The sync point that every channel's SYNC belongs to, and the end of the section's words. */
const FLUSH_AND_EOS = concatBytes(encodeFlushWord(), encodeEosWord())

/** The value of a PING that only says that we are still there. */
const KEEP_ALIVE = 0xffff_ffff

/** What a destination that takes a migration up again has. */
export interface ResumeAnswer {
  /** Rounds whose sync it collected, all of its connections together. */
  collectedRounds: number
  /** Per RAM block, in our order, the pages that came since: one bit per page, little-endian. */
  received: Uint8Array[]
}

export interface OutgoingWireOptions {
  /** Hears of everything that goes wrong. */
  fail: (error: MultifdError) => void
  /** The guest's RAM: what the answer to a resumed connection is about. */
  blocks: readonly { idstr: string; pageCount: number }[]
  /** Another connection carried this migration before. */
  resuming: boolean
}

export class OutgoingWire {
  #main!: MainStream
  readonly #options: OutgoingWireOptions
  readonly #reader: ReturnPathReader
  readonly #sectionIds = new Map<NamedHandler, number>()
  readonly #ready: Deferred<void> = deferred()
  readonly #taken: Deferred<void> = deferred()
  readonly #switchoverAck: Deferred<void> = deferred()
  readonly #resumeAnswer: Deferred<ResumeAnswer> = deferred()
  /** Of the answer: what came so far. */
  readonly #received = new Map<string, Uint8Array>()
  #collectedRounds: number | undefined
  /** Somebody waits for the PONG of this round, or a later one. */
  #awaited: { round: number; answered: Deferred<void> } | undefined
  #switchoverAcked = false
  /** The PINGs that have no answer yet, oldest first. */
  readonly #pings: { round: number; sentMs: number }[] = []
  #roundTripMs = Number.POSITIVE_INFINITY
  #lastPong = -1
  #refused = false
  #eofSent = false
  #readySeen = false
  #committed = false
  #over = false

  private constructor(options: OutgoingWireOptions) {
    this.#options = options
    this.#reader = new ReturnPathReader({ resumeBlocks: options.blocks })
  }

  /** Opens the main channel. */
  static async open(
    connect: (listener: MainChannelListener) => Promise<MainStream>,
    options: OutgoingWireOptions,
  ): Promise<OutgoingWire> {
    const wire = new OutgoingWire(options)
    wire.#main = await connect({
      data: (bytes) => wire.#read(bytes),
      ended: () => wire.#peerEnded(),
      failed: options.fail,
    })
    return wire
  }

  /** Who we are, how many channels follow, what is in them, and the opened return path. */
  async begin(options: {
    channels: number
    compression: NativeCompression
    uuid: Uint8Array
    resumeToken: string | undefined
  }): Promise<void> {
    const { channels, compression, uuid, resumeToken } = options
    const { resuming } = this.#options
    const resume = resumeToken === undefined ? {} : { resume: resumeToken, resuming }
    const own = { channels, commit: true, compression, switchoverAck: true, ...resume }
    await this.#main.write(
      concatBytes(
        encodeHeader(),
        encodeConfiguration({
          machineName: OWN_MACHINE_NAME,
          capabilities: formatOwnCapabilities(own),
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

  /** The guest has stopped: from here on no other connection replaces this one. */
  async switchoverStart(): Promise<void> {
    await this.#main.write(encodeSwitchoverStart())
  }

  /** END: the sync point of the last round. Every page is on its way. */
  async ramEnd(): Promise<void> {
    await this.#section(encodeRamSectionEnd(RAM_SECTION_ID))
  }

  /** A device's state while the guest runs. Returns its bytes on the wire. */
  async deviceSection(
    handler: NamedHandler,
    part: 'setup' | 'iterate',
    state: Uint8Array,
  ): Promise<number> {
    const encode = part === 'setup' ? encodeDeviceStart : encodeDevicePart
    const section = encode(this.#sectionOf(handler), state)
    await this.#main.write(section)
    return section.length
  }

  /** The rest of every device. @param allowed resolves when so many bytes may go out */
  async devices(
    saved: readonly SavedState[],
    allowed: (bytes: number) => Promise<void>,
  ): Promise<void> {
    for (const { device, state } of saved) {
      const encode = device.sectioned ? encodeDeviceEnd : encodeDeviceState
      await allowed(state.length)
      await this.#main.write(encode(this.#sectionOf(device), state))
    }
  }

  /** EOF, and the description of what was sent whole. */
  async eof(saved: readonly SavedState[]): Promise<void> {
    const whole = saved.filter(({ device }) => !device.sectioned)
    const description = buildVmdescription(
      whole.map(({ device, state }) => ({ ...naming(device), payloadBytes: state.length })),
    )
    this.#eofSent = true
    await this.#main.write(concatBytes(encodeEof(), encodeVmdescription(description)))
  }

  /** Gives the guest up. Nothing may resume it here from this call on. */
  async commit(): Promise<void> {
    this.#committed = true
    await this.#main.write(encodeCommit())
  }

  /** Resolves when the destination has loaded everything: SHUT(0), "ready". */
  get ready(): Promise<void> {
    return this.#ready.promise
  }
  /** Resolves when the destination has taken the guest over: SHUT(0) once more. */
  get taken(): Promise<void> {
    return this.#taken.promise
  }

  /** Says that we are still there while nothing else is sent; nothing behind EOF. */
  async keepAlive(): Promise<void> {
    if (!this.#eofSent) await this.#main.write(this.#ping(KEEP_ALIVE))
  }

  /** Gives the migration up: the destination need not wait for another connection. Best effort. */
  async cancel(): Promise<void> {
    await this.#main.write(encodeCancel())
  }

  /**
   * Resolves when the destination has collected the sync of this round (counted from 1; 0: its
   * memory is empty and its channels are there).
   */
  async acknowledged(round: number): Promise<void> {
    const collectedBefore = this.#options.resuming ? (this.#collectedRounds ?? -1) : -1
    if (Math.max(this.#lastPong, collectedBefore) >= round) return
    this.#awaited = { round, answered: deferred() }
    await this.#awaited.answered.promise
  }

  /** What a destination that can resume says before anything else. */
  get resumeAnswer(): Promise<ResumeAnswer> {
    return this.#resumeAnswer.promise
  }
  /** The destination keeps what it has when the connection breaks, and waits for the next one. */
  get peerResumes(): boolean {
    return this.#collectedRounds !== undefined && !this.#refused
  }
  /** Resolves when the destination's devices could take the switchover. */
  get switchoverAcked(): boolean {
    return this.#switchoverAcked
  }
  get switchoverAck(): Promise<void> {
    return this.#switchoverAck.promise
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

  #read(bytes: Uint8Array): void {
    const { events, error } = this.#reader.push(bytes)
    for (const event of events) this.#answered(event)
    if (error !== undefined) this.#options.fail(error)
  }

  #peerEnded(): void {
    const end = this.#reader.end()
    if (this.#over && end.ok) return
    this.#options.fail(
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
    switch (event.kind) {
      case 'pong':
        this.#ponged(event.value)
        return
      case 'shut':
        this.#shut(event.status)
        return
      case 'switchover-ack':
        this.#switchoverAcked = true
        this.#switchoverAck.resolve()
        return
      case 'resume-ack':
        this.#collectedRounds = event.rounds
        break
      case 'recv-bitmap':
        this.#received.set(event.idstr, event.bitmap)
    }
    this.#answerResume()
  }

  /** Once it is complete: the rounds, and towards a resumed connection a bitmap for each block. */
  #answerResume(): void {
    const collectedRounds = this.#collectedRounds
    if (collectedRounds === undefined) return
    const blocks = this.#options.resuming ? this.#options.blocks : []
    const received = blocks.map(({ idstr }) => this.#received.get(idstr))
    if (!received.every((bitmap) => bitmap !== undefined)) return
    this.#resumeAnswer.resolve({ collectedRounds, received })
  }

  /** PINGs carry numbers of rounds, and are answered in order, once the sync was collected. */
  #ponged(value: number): void {
    const ping = this.#pings.shift()
    if (value !== ping?.round) {
      this.#refuse(`PONG ${value} came, expected ${ping?.round ?? this.#lastPong + 1}`)
      return
    }
    this.#roundTripMs = Math.min(this.#roundTripMs, performance.now() - ping.sentMs)
    if (value === KEEP_ALIVE) return
    this.#lastPong = value
    if (this.#awaited !== undefined && value >= this.#awaited.round)
      this.#awaited.answered.resolve()
  }

  #shut(status: number): void {
    if (status !== 0) {
      this.#refused = true
      this.#options.fail(
        new MultifdError(
          'ERR_MULTIFD_PEER_CLOSED',
          `the destination reported that the migration failed there (SHUT ${status}): look for the ` +
            'reason there',
        ),
      )
    } else if (this.#committed && !this.#over) {
      this.#over = true
      this.#taken.resolve()
    } else if (!this.#readySeen && this.#eofSent && this.#pings.length === 0) {
      this.#readySeen = true
      this.#ready.resolve()
    } else {
      this.#refuse('the destination says that it is ready before it can have everything')
    }
  }

  #refuse(problem: string): void {
    this.#options.fail(new MultifdError('ERR_MULTIFD_PROTOCOL', `return path: ${problem}`))
  }

  #ping(round: number): Uint8Array {
    this.#pings.push({ round, sentMs: performance.now() })
    return encodePing(round)
  }

  /** Devices are numbered behind RAM as they come; each keeps its number. */
  #sectionOf(device: NamedHandler): SectionName {
    let sectionId = this.#sectionIds.get(device)
    if (sectionId === undefined) {
      sectionId = RAM_SECTION_ID + 1 + this.#sectionIds.size
      this.#sectionIds.set(device, sectionId)
    }
    return { sectionId, ...naming(device) }
  }

  async #section(begin: Uint8Array, command: Uint8Array = new Uint8Array(0)): Promise<void> {
    await this.#main.write(
      concatBytes(begin, FLUSH_AND_EOS, encodeSectionFooter(RAM_SECTION_ID), command),
    )
  }
}

function naming({ idstr, instanceId, versionId }: NamedHandler): Omit<SectionName, 'sectionId'> {
  return { idstr, instanceId, versionId }
}
