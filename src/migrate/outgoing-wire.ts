// The source's half of the conversation on the main channel: what is written, in order. It decides
// nothing; it knows wire and socket, not rounds. What comes back is read by destination-answers.ts.

import type { MainChannelListener, MainStream } from '../channel/main-channel.ts'
import type { NativeCompression } from '../kit/native.ts'
import { concatBytes } from '../wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../wire/configuration.ts'
import { formatOwnCapabilities, OWN_MACHINE_NAME, type OwnCapabilities } from '../wire/dialect.ts'
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
import { buildVmdescription } from '../wire/vmdescription.ts'
import { type DestinationAnswers, KEEP_ALIVE } from './destination-answers.ts'
import type { SavedState } from './device-saver.ts'
import type { NamedHandler } from './named-handler.ts'

/** Section ids of our own streams: RAM first, then the devices in order. */
const RAM_SECTION_ID = 1

/** The sync point that every channel's SYNC belongs to, and the end of the section's words. */
const FLUSH_AND_EOS = concatBytes(encodeFlushWord(), encodeEosWord())

export class OutgoingWire {
  /** What the destination says. */
  readonly answers: DestinationAnswers
  readonly #main: MainStream
  readonly #sectionIds = new Map<NamedHandler, number>()
  #keepAliveBytes = 0
  #eofSent = false

  private constructor(main: MainStream, answers: DestinationAnswers) {
    this.#main = main
    this.answers = answers
  }

  /** Opens the main channel. */
  static async open(
    connect: (listener: MainChannelListener) => Promise<MainStream>,
    answers: DestinationAnswers,
  ): Promise<OutgoingWire> {
    const main = await connect({
      data: (bytes) => answers.received(bytes),
      ended: () => answers.ended(),
      failed: (error) => answers.fail(error),
    })
    return new OutgoingWire(main, answers)
  }

  /** Who we are, how many channels follow, what is in them, and the opened return path. */
  async begin(options: {
    channels: number
    compression: NativeCompression
    largePackets: boolean
    uuid: Uint8Array
    /** The tokens of src/wire/dialect.ts. */
    resume: Pick<OwnCapabilities, 'resume' | 'resuming'>
  }): Promise<void> {
    const { channels, compression, largePackets, uuid, resume } = options
    const own = {
      ...{ channels, commit: true, compression, switchoverAck: true, largePackets },
      ...resume,
    }
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
    this.answers.expectReady()
    await this.#main.write(concatBytes(encodeEof(), encodeVmdescription(description)))
  }

  /** Gives the guest up. Nothing may resume it here from this call on. */
  async commit(): Promise<void> {
    this.answers.expectTaken()
    await this.#main.write(encodeCommit())
  }

  /**
   * Says that we are still there while nothing else is sent; nothing behind EOF. One question is
   * out at a time: a destination that answers none is silent, however many the kernel takes.
   */
  async keepAlive(): Promise<void> {
    if (this.#eofSent || this.answers.owesPong) return
    const ping = this.#ping(KEEP_ALIVE)
    this.#keepAliveBytes += ping.length
    await this.#main.write(ping)
  }

  /** Resolves when the destination has done everything that was said on this channel so far. */
  async done(): Promise<void> {
    const answered = this.answers.expectPong(KEEP_ALIVE)
    await this.#main.write(encodePing(KEEP_ALIVE))
    await answered
  }

  /** Gives the migration up: the destination need not wait for another connection. Best effort. */
  async cancel(): Promise<void> {
    await this.#main.write(encodeCancel())
  }

  get writtenBytes(): number {
    return this.#main.writtenBytes
  }
  /** Of these, at least so many are more than that we are still there. */
  get saidBytes(): number {
    return this.writtenBytes - this.#keepAliveBytes
  }
  get readBytes(): number {
    return this.#main.readBytes
  }
  async close(options?: { awaitPeer: boolean }): Promise<void> {
    await this.#main.close(options)
  }
  destroy(): void {
    this.#main.destroy()
  }

  #ping(round: number): Uint8Array {
    void this.answers.expectPong(round)
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
