// One incoming migration once all channels are there: it follows the main stream, event by event,
// collects syncs, loads devices, says that it is ready, and starts nothing before the commit.

import type { GuestMemory } from '../guest/guest-memory.ts'
import { MultifdError } from '../kit/errors.ts'
import { MIG_CMD_PING } from '../wire/constants.ts'
import { OWN_COMMAND_COMMIT } from '../wire/dialect.ts'
import type {
  DeviceStateEvent,
  MainStreamEvent,
  RamMemSizeEvent,
} from '../wire/main-stream-events.ts'
import type { DestinationSettings } from './destination-options.ts'
import type { IncomingWire } from './incoming-wire.ts'
import type { SyncCollector } from './sync-collector.ts'
import type { FirstError } from './teardown.ts'
import { callVmm, type NamedDevice } from './vmm.ts'
import type { Watchdog } from './watchdog.ts'

/** What an incoming migration works with; made, and taken down, by src/destination.ts. */
export interface IncomingParts {
  settings: DestinationSettings
  first: FirstError
  watchdog: Watchdog
  wire: IncomingWire
  syncs: SyncCollector
  /**
   * Ends the multifd channels; resolves when nobody but the guest can write its memory any more.
   */
  stopReceiving: () => Promise<void>
}

export class Incoming {
  readonly #parts: IncomingParts
  readonly #loaded = new Set<NamedDevice>()
  #ramListed = false
  #ramOver = false
  #inLastSection = false
  #ready = false

  constructor(parts: IncomingParts) {
    this.#parts = parts
  }

  /** All RAM is in place: a channel may end from here on. */
  get ramOver(): boolean {
    return this.#ramOver
  }
  /** SHUT(0) was sent. */
  get ready(): boolean {
    return this.#ready
  }

  /** Returns when the source has handed the guest over. */
  async run(): Promise<void> {
    const { first, wire } = this.#parts
    let committed = false
    while (!committed) committed = await this.#apply(await first.unless(wire.next()))
  }

  /** Applies one event; true for the commit. */
  async #apply(event: MainStreamEvent): Promise<boolean> {
    const { first, syncs, wire } = this.#parts
    switch (event.kind) {
      case 'ram-mem-size':
        this.#checkBlocks(event)
        return false
      case 'section-start':
        this.#inLastSection = event.type === 'end'
        return false
      case 'ram-flush':
        await first.unless(syncs.collect())
        return false
      case 'section-end':
        this.#ramOver = this.#inLastSection
        // A page that comes behind the last sync must not find a guest that runs already.
        if (this.#ramOver) await first.unless(this.#parts.stopReceiving())
        return false
      case 'device-state':
        await this.#load(event)
        return false
      case 'device-section':
        throw new MultifdError(
          'ERR_MULTIFD_UNSUPPORTED',
          `unknown section "${event.idstr}": only RAM can be sent while the guest runs`,
        )
      case 'command':
        if (event.command === MIG_CMD_PING) await first.unless(wire.pong(event.data))
        return event.command === OWN_COMMAND_COMMIT && this.#acceptCommit()
      case 'vmdescription':
        await this.#sayReady()
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
    const ours = this.#parts.settings.memory.blocks
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

  async #load(event: DeviceStateEvent): Promise<void> {
    const { settings, first, watchdog } = this.#parts
    const name = `device "${event.idstr}" (instance ${event.instanceId})`
    const device = settings.devices.find(
      ({ idstr, instanceId }) => idstr === event.idstr && instanceId === event.instanceId,
    )
    if (device === undefined || this.#loaded.has(device) || !this.#ramOver) {
      const problem =
        device === undefined
          ? 'which this destination does not have: give both sides the same devices'
          : 'expected it once, and after the end of RAM'
      throw new MultifdError('ERR_MULTIFD_PROTOCOL', `the source sent ${name}, ${problem}`)
    }
    if (event.versionId > device.versionId) {
      throw new MultifdError(
        'ERR_MULTIFD_UNSUPPORTED',
        `the source sent ${name} in version ${event.versionId}, expected at most ` +
          `${device.versionId}: the destination's VMM is older than the source's`,
      )
    }
    this.#loaded.add(device)
    const load = callVmm(`loading ${name}`, () => device.load(event.payload, event.versionId))
    await first.unless(watchdog.during(load))
  }

  /** Everything came: the source may give its guest up. */
  async #sayReady(): Promise<void> {
    const { settings, first, wire } = this.#parts
    const missing = settings.devices.find((device) => !this.#loaded.has(device))
    if (missing !== undefined) {
      throw new MultifdError(
        'ERR_MULTIFD_PROTOCOL',
        `the source sent no state for device "${missing.idstr}" (instance ${missing.instanceId}): give ` +
          'both sides the same devices',
      )
    }
    if (!this.#ramListed) {
      throw new MultifdError('ERR_MULTIFD_PROTOCOL', 'the source listed no RAM blocks')
    }
    this.#ready = true
    await first.unless(wire.ready())
  }

  #acceptCommit(): true {
    if (this.#ready) return true
    throw new MultifdError(
      'ERR_MULTIFD_PROTOCOL',
      'the source handed the guest over before this side was ready',
    )
  }
}
