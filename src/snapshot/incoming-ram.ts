// The RAM of a snapshot while it comes in: one sparse file per block, mapped, so that the channels'
// threads write straight into the page cache; and the pages that come as words on the main channel.

import { ReceiveChannel, type ReceiveChannelListener } from '../channel/receive-channel.ts'
import { GuestMemory } from '../guest/guest-memory.ts'
import { MultifdError } from '../kit/errors.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import {
  checked,
  type NativeCompression,
  type NativeConnection,
  type NativeReceiveGroup,
  native,
} from '../kit/native.ts'
import type { RamMemSizeEvent, RamPageEvent, RamZeroEvent } from '../wire/main-stream-events.ts'
import type { RamBlockEntry } from '../wire/ram-words.ts'
import { ramFilePath } from './manifest.ts'
import type { SnapshotDirectory } from './snapshot-directory.ts'

export class IncomingRam {
  readonly blocks: readonly RamBlockEntry[]
  readonly channels: readonly ReceiveChannel[]
  readonly #memory: GuestMemory
  readonly #group: NativeReceiveGroup
  readonly #indices: ReadonlyMap<string, number>
  #normalPages = 0
  #zeroPages = 0

  /** Makes the files, and starts to read the channels, which were taken over. */
  constructor(
    directory: SnapshotDirectory,
    { blocks }: RamMemSizeEvent,
    connections: readonly NativeConnection[],
    options: { compression: NativeCompression; listener: ReceiveChannelListener },
  ) {
    const { compression, listener } = options
    this.blocks = blocks
    this.#indices = new Map(blocks.map(({ idstr }, index) => [idstr, index]))
    this.#memory = makeMemory(directory, blocks)
    try {
      const group = native().createReceiveGroup(this.#memory.native)
      this.#group = checked(group, 'preparing for the pages failed')
      this.channels = connections.map((connection) => {
        return new ReceiveChannel(this.#group, connection, listener, { compression })
      })
    } catch (error) {
      void this.#memory.close() // ends the channels that run
      throw error
    }
  }

  /** Pages so far, of all channels and of the main one. */
  get normalPages(): number {
    return this.channels.reduce(
      (sum, { counters }) => sum + counters.normalPages,
      this.#normalPages,
    )
  }
  get zeroPages(): number {
    return this.channels.reduce((sum, { counters }) => sum + counters.zeroPages, this.#zeroPages)
  }
  get receivedBytes(): number {
    return this.channels.reduce((sum, channel) => sum + channel.receivedBytes, 0)
  }

  applyZeros({ idstr, offset, pages }: RamZeroEvent): void {
    const applied = this.#group.applyZeroRun(this.#index(idstr), offset / PAGE_SIZE_BYTES, pages)
    checked(applied, 'a zero page of the main channel')
    this.#zeroPages += pages
  }

  applyPages({ idstr, offset, contents }: RamPageEvent): void {
    const applied = this.#group.applyPages(this.#index(idstr), offset / PAGE_SIZE_BYTES, contents)
    checked(applied, 'a page of the main channel')
    this.#normalPages += contents.length / PAGE_SIZE_BYTES
  }

  /** Ends the channels and unmaps the files. */
  async close(): Promise<void> {
    await Promise.all(this.channels.map((channel) => channel.destroy()))
    this.#group.close()
    await this.#memory.close()
  }

  /** The reader of the stream lets no other block through. */
  #index(idstr: string): number {
    return this.#indices.get(idstr) ?? this.blocks.length
  }
}

function makeMemory(directory: SnapshotDirectory, blocks: readonly RamBlockEntry[]): GuestMemory {
  const empty = blocks.find(({ usedLength }) => usedLength === 0)
  if (empty !== undefined) {
    throw new MultifdError(
      'ERR_MULTIFD_UNSUPPORTED',
      `the source's RAM block "${empty.idstr}" has no bytes, expected at least a page`,
    )
  }
  return GuestMemory.of(
    blocks.map(({ idstr, usedLength }, index) => ({
      idstr,
      path: directory.pathOf(ramFilePath(index, idstr)),
      sizeBytes: usedLength,
    })),
  )
}
