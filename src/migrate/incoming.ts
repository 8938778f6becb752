// One incoming migration once all channels are there: it follows the main stream, event by event,
// collects syncs, loads devices, says that it is ready, and starts nothing before the commit.

import type { GuestMemory } from '../guest/guest-memory.ts'
import { MultifdError } from '../kit/errors.ts'
import {
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PING,
  MIG_CMD_SWITCHOVER_START,
} from '../wire/constants.ts'
import { OWN_COMMAND_CANCEL, OWN_COMMAND_COMMIT } from '../wire/dialect.ts'
import type { MainStreamEvent, RamMemSizeEvent } from '../wire/main-stream-events.ts'
import type { DestinationLink } from './destination-link.ts'
import type { DestinationSettings } from './destination-options.ts'
import { DeviceLoader, type DevicePacket } from './device-loader.ts'
import { DestinationOwnership } from './ownership.ts'
import { switchoverAcknowledged } from './switchover-ack.ts'
import { asMultifdError } from './teardown.ts'

export class Incoming {
  readonly ownership = new DestinationOwnership()
  readonly #settings: DestinationSettings
  readonly #loader: DeviceLoader
  #link: DestinationLink | undefined
  #collectedRounds = 0
  #ramListed = false
  #ramOver = false
  #section: 'start' | 'part' | 'end' = 'start'
  #switchover = false

  constructor(settings: DestinationSettings) {
    this.#settings = settings
    this.#loader = new DeviceLoader({
      handlers: settings.devices,
      queueBytesMax: settings.deviceQueueBytesMax,
      fail: (error) => this.#link?.first.set(error),
    })
  }

  /** A device is being loaded. */
  get loading(): boolean {
    return this.#loader.loading
  }
  /** Rounds whose sync was collected, over all connections. */
  get collectedRounds(): number {
    return this.#collectedRounds
  }
  /** The source's guest runs, as far as it says: a connection that breaks can be replaced. */
  get mayResume(): boolean {
    return !this.#switchover && this.#section !== 'end'
  }

  /** All RAM is in place: a channel may end from here on. */
  get ramOver(): boolean {
    return this.#ramOver
  }

  /**
   * Follows the main stream of a connection, from its configuration on. Returns when the source has
   * handed the guest over.
   */
  async run(link: DestinationLink): Promise<void> {
    if (this.#link !== undefined) await this.#loader.restart()
    this.#link = link
    this.#ramListed = false
    let committed = false
    while (!committed) {
      committed = await this.#apply(await link.nextEvent(), link)
    }
  }

  /**
   * Every channel is parked at a sync point, and reads on when this returns: what came before and
   * what comes behind are told apart here.
   */
  syncCollected(): void {
    if (this.#section === 'part') this.#collectedRounds += 1
  }

  /** From a channel, in any order. */
  devicePacket(packet: DevicePacket): void {
    this.#loader.piece(packet)
  }

  /** The source has closed every channel. */
  channelsEnded(): void {
    this.#loader.channelsEnded()
  }

  /** Applies one event; true for the commit. */
  async #apply(event: MainStreamEvent, link: DestinationLink): Promise<boolean> {
    const { first, syncs, watchdog, wire } = link
    switch (event.kind) {
      case 'ram-mem-size':
        this.#checkBlocks(event)
        return false
      case 'section-start':
        this.#section = event.type
        return false
      case 'ram-flush':
        await first.unless(syncs.collect())
        return false
      case 'section-end':
        this.#ramOver = this.#section === 'end'
        return false
      case 'device-state':
      case 'device-section':
        await first.unless(watchdog.during(this.#loader.section(event, this.#ramOver)))
        return false
      case 'command':
        if (event.command === MIG_CMD_PING) await first.unless(wire.pong(event.data))
        if (event.command === MIG_CMD_OPEN_RETURN_PATH) this.#acknowledge(link)
        if (event.command === MIG_CMD_SWITCHOVER_START) this.#switchover = true
        if (event.command === OWN_COMMAND_CANCEL) throw givenUp()
        return event.command === OWN_COMMAND_COMMIT && this.ownership.commit()
      case 'vmdescription':
        await this.#sayReady(link)
        return false
      case 'ram-zero':
      case 'ram-page':
        throw new MultifdError(
          'ERR_MULTIFD_UNSUPPORTED',
          'a page came on the main channel, expected all pages on the multifd channels',
        )
      default:
        return false
    }
  }

  /** The block list must be ours, whatever its order. */
  #checkBlocks({ blocks }: RamMemSizeEvent): void {
    this.#ramListed = true
    const ours = this.#settings.memory.blocks
    const describe = (list: GuestMemory['blocks']): string =>
      list.map(({ idstr, usedLength }) => `"${idstr}" ${usedLength}`).join(', ')
    const missing = ours.find(({ idstr, usedLength }) => {
      const theirs = blocks.find((block) => block.idstr === idstr)
      return theirs?.usedLength !== usedLength
    })
    if (missing === undefined && blocks.length === ours.length) return
    throw new MultifdError(
      'ERR_MULTIFD_PROTOCOL',
      `the source has the RAM blocks ${describe(blocks)}, expected ${describe(ours)} (name and bytes): ` +
        'give both sides the same memory',
    )
  }

  /** Tells the source when every device could take the switchover; it goes on meanwhile. */
  #acknowledge({ first, own, wire }: DestinationLink): void {
    if (own?.switchoverAck !== true) return
    const acknowledged = switchoverAcknowledged(this.#settings.devices)
    acknowledged
      .then(() => wire.switchoverAck())
      .catch((thrown: unknown) => first.set(asMultifdError(thrown)))
  }

  /** Everything came: the source may give its guest up. */
  async #sayReady(link: DestinationLink): Promise<void> {
    const { first, syncs, wire } = link
    await first.unless(this.#loader.finish())
    // A page that comes behind the last sync must not find a guest that runs already.
    await first.unless(link.stopReceiving())
    if (!this.#ramListed) {
      throw new MultifdError('ERR_MULTIFD_PROTOCOL', 'the source listed no RAM blocks')
    }
    if (syncs.pagesBehind > 0) {
      throw new MultifdError(
        'ERR_MULTIFD_PROTOCOL',
        `${syncs.pagesBehind} pages came behind the last sync of their channels, expected none: the ` +
          'source did not say which of them are the newest',
      )
    }
    // No await between this look and the word: what failed before it keeps the guest at the source.
    if (first.error !== undefined) throw first.error
    this.ownership.loaded()
    await first.unless(wire.ready())
  }
}

function givenUp(): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_PEER_CLOSED',
    'the source gave the migration up, and its guest runs on there: look for the reason there',
  )
}
