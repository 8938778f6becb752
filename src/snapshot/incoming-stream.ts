// The course of one QEMU stream into a snapshot: events of the main channel, one after the other,
// become files, syncs and answers. It ends when the whole stream came; nothing is durable then, and
// nobody has been told anything.

import { MultifdError } from '../kit/errors.ts'
import { DEVICE_STATE_BYTES_MAX } from '../kit/limits.ts'
import type { IncomingWire } from '../migrate/incoming-wire.ts'
import { SyncCollector } from '../migrate/sync-collector.ts'
import type { FirstError } from '../migrate/teardown.ts'
import { concatBytes } from '../wire/bytes.ts'
import { MIG_CMD_OPEN_RETURN_PATH, MIG_CMD_PING } from '../wire/constants.ts'
import { type Dialect, DialectDetector, dialectOfMachine, isOwnMachine } from '../wire/dialect.ts'
import type {
  CommandEvent,
  Configuration,
  MainStreamEvent,
  RamMemSizeEvent,
  SectionStartEvent,
} from '../wire/main-stream-events.ts'
import type { IncomingRam } from './incoming-ram.ts'
import { atTheSource, setCapability } from './qemu-commands.ts'
import type { ReceiveSettings } from './receive-options.ts'

/** What the course works with; made, and taken down, by receive-session.ts. */
export interface IncomingStreamParts {
  settings: ReceiveSettings
  first: FirstError
  wire: IncomingWire
  /** Waits for the channels, then makes the files. */
  openRam(event: RamMemSizeEvent): Promise<IncomingRam>
}

/** What the stream said, once it is over. */
export interface StreamSummary {
  configuration: Configuration
  dialect: Dialect
  ramSection: { sectionId: number; versionId: number }
  /** The opaque end of the stream, and how much of it are device sections. */
  devices: Uint8Array
  sectionBytes: number | null
}

export class IncomingStream {
  readonly #parts: IncomingStreamParts
  readonly #detector = new DialectDetector()
  readonly #tail: Uint8Array[] = []
  #tailBytes = 0
  #sectionBytes: number | null = null
  #configuration: Configuration | undefined
  #ramSection: { sectionId: number; versionId: number } | undefined
  #ram: IncomingRam | undefined
  #syncs: SyncCollector | undefined
  #returnPath = false
  #acknowledged = false
  #inLastSection = false
  #ramOver = false

  constructor(parts: IncomingStreamParts) {
    this.#parts = parts
  }

  /** The source waits for our word before it gives its guest up. */
  get returnPath(): boolean {
    return this.#returnPath
  }
  /** All RAM is in place: a channel may end from here on. */
  get ramOver(): boolean {
    return this.#ramOver
  }
  /** Only devices are left, or nothing. */
  get inDevices(): boolean {
    return this.#tailBytes > 0
  }
  get ram(): IncomingRam | undefined {
    return this.#ram
  }
  get syncs(): number {
    return this.#syncs?.collected ?? 0
  }

  /** A channel is parked at its SYNC. */
  syncArrived(channelId: number): void {
    this.#syncs?.arrived(channelId)
  }

  /** Returns when everything came. */
  async run(): Promise<StreamSummary> {
    const { first, wire } = this.#parts
    let complete = false
    while (!complete && !wire.endedComplete) {
      const event = wire.takeNow() ?? (await this.#next())
      if (event === undefined) break
      // Pages are many: they are applied without a turn of the event loop for each.
      if (event.kind === 'ram-zero') this.#ram?.applyZeros(event)
      else if (event.kind === 'ram-page') this.#ram?.applyPages(event)
      else complete = await this.#apply(event)
    }
    if (first.error !== undefined) throw first.error
    return this.#summary()
  }

  /** The next event; undefined if the source closed a stream that was complete. */
  async #next(): Promise<MainStreamEvent | undefined> {
    const { first, wire } = this.#parts
    try {
      return await first.unless(wire.next())
    } catch (error) {
      if (wire.endedComplete && first.error === undefined) return undefined
      throw error
    }
  }

  /** Applies one event; true for the end of the stream. */
  async #apply(event: MainStreamEvent): Promise<boolean> {
    switch (event.kind) {
      case 'configuration':
        this.#checkConfiguration(event)
        return false
      case 'command':
        await this.#obey(event)
        return false
      case 'section-start':
        this.#beginSection(event)
        return false
      case 'ram-mem-size':
        this.#ram = await this.#parts.openRam(event)
        this.#syncs = new SyncCollector(this.#ram.channels)
        return false
      case 'ram-flush':
      case 'ram-eos':
        await this.#endWords(event.kind)
        return false
      case 'section-end':
        this.#ramOver = this.#inLastSection
        return false
      case 'device-tail':
        this.#keepTail(event.bytes)
        return false
      case 'device-tail-end':
        this.#sectionBytes = event.deviceBytes
        return true
      default:
        return false
    }
  }

  #checkConfiguration(configuration: Configuration): void {
    this.#configuration = configuration
    const { machineName, capabilities } = configuration
    if (isOwnMachine(machineName)) {
      throw new MultifdError(
        'ERR_MULTIFD_UNSUPPORTED',
        `the source is a MigrationSource of this library (${machineName}), expected a QEMU: give it a ` +
          'MigrationDestination',
      )
    }
    if (!capabilities.includes('x-ignore-shared')) return
    throw new MultifdError(
      'ERR_MULTIFD_UNSUPPORTED',
      'the source has x-ignore-shared on and leaves shared RAM out, expected all of it: set ' +
        `${atTheSource(setCapability('x-ignore-shared', false))}`,
    )
  }

  async #obey({ command, data }: CommandEvent): Promise<void> {
    const { first, settings, wire } = this.#parts
    if (command === MIG_CMD_OPEN_RETURN_PATH) {
      this.#returnPath = true
      // A machine type of 8.1 or newer is a QEMU that knows the answer; an older one fails on it.
      const machine = this.#configuration?.machineName ?? ''
      const known = settings.switchoverAck || dialectOfMachine(machine) === 'per-round'
      if (known) await this.#acknowledge()
    }
    if (command === MIG_CMD_PING && this.#returnPath) await first.unless(wire.pong(data))
  }

  async #acknowledge(): Promise<void> {
    if (this.#acknowledged || !this.#returnPath) return
    this.#acknowledged = true
    await this.#parts.first.unless(this.#parts.wire.switchoverAck())
  }

  #beginSection({ type, sectionId, versionId }: SectionStartEvent): void {
    this.#inLastSection = type === 'end'
    if (type !== 'start') return
    this.#ramSection = { sectionId, versionId }
    if (this.#returnPath || this.#parts.settings.allowNoReturnPath) return
    throw new MultifdError(
      'ERR_MULTIFD_UNSUPPORTED',
      'the source opened no return path: it would take its guest for migrated before anything is ' +
        'durable here, and a failure would lose the guest; set ' +
        `${atTheSource(setCapability('return-path', true))}, or allow it here (allowNoReturnPath)`,
    )
  }

  /** A FLUSH or an EOS: a sync point in one of the dialects. */
  async #endWords(kind: 'ram-flush' | 'ram-eos'): Promise<void> {
    const { first } = this.#parts
    if (!this.#detector.observe(kind)) return
    if (this.#detector.dialect === 'per-round') await this.#acknowledge()
    if (this.#syncs === undefined) return
    await first.unless(this.#syncs.collect())
  }

  #keepTail(bytes: Uint8Array): void {
    this.#tailBytes += bytes.length
    if (this.#tailBytes > DEVICE_STATE_BYTES_MAX) {
      throw new MultifdError(
        'ERR_MULTIFD_LIMIT',
        `the device state has more than ${DEVICE_STATE_BYTES_MAX} bytes: remove what is so large from ` +
          'the guest',
      )
    }
    this.#tail.push(bytes)
  }

  #summary(): StreamSummary {
    const configuration = this.#configuration
    const ramSection = this.#ramSection
    const detected = this.#detector.dialect
    if (configuration === undefined || ramSection === undefined || detected === undefined) {
      throw new MultifdError('ERR_MULTIFD_PROTOCOL', 'the source sent no RAM section')
    }
    const behind = this.#syncs?.pagesBehind ?? 0
    if (behind > 0) {
      throw new MultifdError(
        'ERR_MULTIFD_PROTOCOL',
        `${behind} pages came behind the last sync point, expected none: whether all of them came cannot ` +
          'be known; this QEMU is not supported',
      )
    }
    // Without channels a FLUSH is never sent, whatever the machine.
    const withChannels = (this.#ram?.channels.length ?? 0) > 0
    const dialect = withChannels
      ? detected
      : (dialectOfMachine(configuration.machineName) ?? detected)
    const devices = concatBytes(...this.#tail)
    return { configuration, dialect, ramSection, devices, sectionBytes: this.#sectionBytes }
  }
}
