// The main channel towards a QEMU that loads a snapshot: what is written, in order, and what its
// return path answers. PINGs between the parts tell how far it came. It decides nothing and knows
// no channels; where their SYNCs belong is said at each part.

import { MainChannel } from '../channel/main-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeEndpoint } from '../kit/native.ts'
import { type DestinationEnd, verdictOf } from '../migrate/ownership.ts'
import { concatBytes } from '../wire/bytes.ts'
import type { Dialect } from '../wire/dialect.ts'
import {
  encodeOpenReturnPath,
  encodePing,
  encodeRamSectionEnd,
  encodeRamSectionPart,
  encodeRamSectionStart,
  encodeSectionFooter,
} from '../wire/main-stream-writer.ts'
import {
  encodeEosWord,
  encodeFlushWord,
  encodeMemSizeWord,
  type RamBlockEntry,
} from '../wire/ram-words.ts'
import { type ReturnPathEvent, ReturnPathReader } from '../wire/return-path.ts'
import type { ReplayStage } from './qemu-advice.ts'

/** The PINGs, and what their answers prove. */
const BEGAN = 1
const RAM_KNOWN = 2
const RAM_LOADED = 3

const NOTHING = new Uint8Array(0)
/** The socket takes what it can; more is read, or copied, only when it is wanted. */
const TAIL_PART_BYTES = 1024 * 1024

export interface ReplayWireOptions {
  timeoutMs: number
  signal: AbortSignal
  /** Hears of everything that goes wrong after the connect. */
  fail: (error: MultifdError) => void
}

export class ReplayWire {
  readonly #main: MainChannel
  readonly #fail: (error: MultifdError) => void
  readonly #reader = new ReturnPathReader()
  readonly #answers: Deferred<void>[] = [deferred(), deferred(), deferred()]
  readonly #loaded: Deferred<void> = deferred()
  #sectionId = 0
  /** FLUSH where it is the sync point; nothing where EOS is, or where there are no channels. */
  #syncWord: Uint8Array = NOTHING
  #lastPing = 0
  #lastPong = 0
  #allSent = false
  #isLoaded = false
  /** How QEMU's part ended: what came first. */
  #end: DestinationEnd | undefined

  private constructor(main: MainChannel, fail: (error: MultifdError) => void) {
    this.#main = main
    this.#fail = fail
  }

  static async connect(endpoint: NativeEndpoint, options: ReplayWireOptions): Promise<ReplayWire> {
    let wire: ReplayWire | undefined
    const main = await MainChannel.connect(endpoint, options, {
      data: (bytes) => wire?.received(bytes),
      ended: () => wire?.peerEnded(),
      failed: (error) => wire?.broke(error),
    })
    wire = new ReplayWire(main, options.fail)
    return wire
  }

  /** How far QEMU is known to have come. */
  get stage(): ReplayStage {
    const stages = ['identify', 'setup', 'pages', 'devices'] as const
    return stages[this.#lastPong] ?? 'devices'
  }
  /** All channels that it expects are there, and it reads. */
  get began(): boolean {
    return this.#lastPong >= BEGAN
  }
  /** QEMU may have all it needs to let the guest run, and has not said so. */
  get inDoubt(): boolean {
    if (this.#isLoaded) return false
    return verdictOf('qemu', this.#allSent, this.#end ?? 'silent') === 'unknown'
  }
  get writtenBytes(): number {
    return this.#main.writtenBytes
  }
  get readBytes(): number {
    return this.#main.readBytes
  }

  /** Header and configuration, raw, and the opened return path: nothing waits for anything. */
  async begin(configuration: Uint8Array): Promise<void> {
    await this.write(concatBytes(configuration, encodeOpenReturnPath(), this.#ping(BEGAN)))
  }

  /** Resolves when QEMU reads, which is when it has all the channels it expects. */
  get reads(): Promise<void> {
    return this.#answer(BEGAN)
  }

  /** The list of RAM blocks. One SYNC per channel belongs to it. Resolves when QEMU took it. */
  async ramStart(options: {
    sectionId: number
    blocks: readonly RamBlockEntry[]
    dialect: Dialect
    channels: number
  }): Promise<void> {
    const { sectionId, blocks, dialect, channels } = options
    this.#sectionId = sectionId
    this.#syncWord = dialect === 'per-round' && channels > 0 ? encodeFlushWord() : NOTHING
    await this.write(
      concatBytes(
        encodeRamSectionStart(sectionId),
        encodeMemSizeWord(blocks),
        this.#syncWord,
        this.#sectionEnd(),
        this.#ping(RAM_KNOWN),
      ),
    )
    await this.#answer(RAM_KNOWN)
  }

  /** Words of pages may follow. */
  async ramPart(): Promise<void> {
    await this.write(encodeRamSectionPart(this.#sectionId))
  }

  /** Ends what ramPart began. One SYNC per channel belongs to it. */
  async ramPartEnd(): Promise<void> {
    await this.write(concatBytes(this.#syncWord, this.#sectionEnd()))
  }

  /** No more pages. Per section, one more SYNC per channel belongs to it. */
  async ramEnd(): Promise<void> {
    const ping = this.#ping(RAM_LOADED)
    await this.write(concatBytes(encodeRamSectionEnd(this.#sectionId), this.#sectionEnd(), ping))
  }

  /** Devices, EOF and vmdescription, as they were stored. */
  async tail(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += TAIL_PART_BYTES) {
      const end = at + TAIL_PART_BYTES
      if (end >= bytes.length) this.#allSent = true
      await this.write(bytes.subarray(at, end))
    }
  }

  /** Resolves with SHUT(0): everything is loaded, and the guest is QEMU's. */
  get loaded(): Promise<void> {
    return this.#loaded.promise
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.#main.write(bytes)
  }

  async close(): Promise<void> {
    await this.#main.close()
  }
  destroy(): void {
    this.#main.destroy()
  }

  /** @internal What the main channel's socket reports. */
  received(bytes: Uint8Array): void {
    const { events, error } = this.#reader.push(bytes)
    for (const event of events) this.#take(event)
    if (error === undefined) return
    this.#end ??= 'garbled'
    this.#fail(error)
  }

  /** @internal */
  peerEnded(): void {
    if (this.#isLoaded) return
    const end = this.#reader.end()
    this.#end ??= end.ok ? 'closed' : 'garbled'
    const closed = new MultifdError('ERR_MULTIFD_PEER_CLOSED', 'QEMU closed the main channel')
    this.#fail(end.ok ? closed : end.error)
  }

  /** @internal */
  broke(error: MultifdError): void {
    if (this.#isLoaded) return // a QEMU that has everything may go
    this.#end ??= 'broken'
    this.#fail(error)
  }

  #take(event: ReturnPathEvent): void {
    if (event.kind === 'pong') this.#ponged(event.value)
    if (event.kind === 'shut') this.#shut(event.status)
    // SWITCHOVER_ACK: there is no guest to switch over from.
  }

  #ponged(value: number): void {
    if (value !== this.#lastPong + 1 || value > this.#lastPing) {
      this.#refuse(`PONG ${value} came, expected ${this.#lastPong + 1}`)
      return
    }
    this.#lastPong = value
    this.#answers[value - 1]?.resolve()
  }

  #shut(status: number): void {
    if (status !== 0) {
      this.#end ??= 'shut-failure'
      const sentence = `QEMU reported that loading the snapshot failed (SHUT ${status})`
      this.#fail(new MultifdError('ERR_MULTIFD_PEER_CLOSED', sentence))
    } else if (this.#allSent && this.#lastPong === RAM_LOADED) {
      this.#isLoaded = true
      this.#loaded.resolve()
    } else {
      this.#refuse('SHUT 0 came before everything was sent')
    }
  }

  #refuse(problem: string): void {
    this.#end ??= 'garbled'
    this.#fail(new MultifdError('ERR_MULTIFD_PROTOCOL', `return path: ${problem}`))
  }

  #answer(value: number): Promise<void> {
    return this.#answers[value - 1]?.promise ?? Promise.resolve()
  }

  #ping(value: number): Uint8Array {
    this.#lastPing = value
    return encodePing(value)
  }

  #sectionEnd(): Uint8Array {
    return concatBytes(encodeEosWord(), encodeSectionFooter(this.#sectionId))
  }
}
