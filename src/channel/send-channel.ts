// One multifd channel of the source, as the scheduler sees it: extents and syncs go in, completions
// come out. The thread behind it does the rest.

import { deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import {
  DEVICE_PAYLOAD_BYTES_MAX,
  DEVICE_PREFIX_BYTES_MAX,
  IDSTR_BYTES_MAX,
  PAGE_SIZE_BYTES,
} from '../kit/limits.ts'
import {
  checked,
  type NativeCompression,
  type NativeEndpoint,
  type NativeEngineName,
  type NativeEngineReport,
  type NativeSendChannel,
  type NativeSendGroup,
  native,
  toError,
} from '../kit/native.ts'
import { checkUnsigned, encodeName } from '../wire/bytes.ts'
import { readCounters, type SendCounters, sendCounterIndex, sendCounterNames } from './counters.ts'
import { EVENT, listen } from './native-events.ts'

export interface SendChannelOptions {
  channelId: number
  endpoint: NativeEndpoint
  uuid: Uint8Array
  connectTimeoutMs: number
  engine: NativeEngineName
  zeroCopy: boolean
  /** True: the channel fails where the socket cannot; false: it sends plain then. */
  zeroCopyRequired: boolean
  highWaterBytes: number
  lowWaterBytes: number
  zeroCopyUntilBytes: number
  /** Packets have room for 472 pages, and not for QEMU's 128; without compression only. */
  largePackets?: boolean
  /** Compressed payloads are never sent zero-copy. Default none. */
  compression?: NativeCompression
  /** zlib 0 to 9, zstd 0 to 20; default 1. */
  compressionLevel?: number
}

export interface SendChannelListener {
  extentDone(channelId: number, wireBytes: number): void
  syncDone(channelId: number): void
  /** The oldest state submitted was sent; its memory is free again. For whoever submits some. */
  deviceStateDone?(channelId: number, wireBytes: number): void
  /** At most once; the channel ends by itself. */
  failed(error: MultifdError): void
}

/** An extent as the native thread takes it: pages within one block. */
export interface ExtentPages {
  blockIndex: number
  firstPage: number
  pageCount: number
  dirtyPages: number
}

/** A part of a device's state, as one packet. */
export interface DeviceStatePart {
  /** 1 to 255 bytes of UTF-8. */
  idstr: string
  instanceId: number
  /** In front of the data, at most 32 bytes; copied. */
  prefix: Uint8Array
  /**
   * Sent from its place, which nobody may change, transfer or resize before `deviceStateDone`. 1
   * byte to 16 MiB + 12, the prefix included.
   */
  data: Uint8Array
}

/** A thread ends unasked, and without an error, only if the memory it worked on was taken away. */
export function memoryTaken(about: string, channelId: number): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_CLOSED',
    `${about} ended: the guest memory was closed by its owner`,
    { channelId },
  )
}

export class SendChannel {
  readonly channelId: number
  /**
   * Resolves when connected and introduced; rejects if the channel fails or is destroyed before.
   */
  readonly ready: Promise<void>
  /** Resolves, always, when the thread has ended and everything is given back. */
  readonly closed: Promise<void>
  readonly #native: NativeSendChannel
  readonly #cells = new Float64Array(sendCounterNames().length)
  #engineReport: NativeEngineReport
  /** Connected, and its thread not yet gone. */
  #live = false
  /** It was told to end, or has said why it ended. */
  #over = false

  constructor(group: NativeSendGroup, options: SendChannelOptions, listener: SendChannelListener) {
    const { channelId, endpoint, ...rest } = options
    this.channelId = channelId
    // What was asked for, until the channel is connected and knows better.
    const mode = options.zeroCopy ? 'zero-copy' : 'plain'
    this.#engineReport = { engine: options.engine, mode, downgrades: [] }
    const about = `multifd channel ${channelId}`
    this.#native = checked(
      native().startSendChannel(group, { ...endpoint, channelId, ...rest, counters: this.#cells }),
      `starting ${about} failed`,
    )
    const ready = deferred()
    const closed = deferred()
    this.ready = ready.promise
    this.closed = closed.promise
    listen(this.#native, (kind, value) => {
      if (kind === EVENT.EXTENT_DONE) listener.extentDone(channelId, value)
      if (kind === EVENT.SYNC_DONE) listener.syncDone(channelId)
      if (kind === EVENT.DEVICE_STATE_DONE) listener.deviceStateDone?.(channelId, value)
      if (kind === EVENT.READY) {
        this.#live = true
        ready.resolve()
      }
      if (kind === EVENT.FAILED) {
        const cause = this.#native.error()
        if (cause === null) return
        const error = toError(cause, about, { channelId })
        this.#over = true
        ready.reject(error)
        listener.failed(error)
      }
      if (kind === EVENT.CLOSED) {
        void this.engineReport // the last one: the thread may have stepped down while it ran
        this.#live = false
        this.#native.join()
        ready.reject(new MultifdError('ERR_MULTIFD_CLOSED', `${about} was closed`, { channelId }))
        if (!this.#over) listener.failed(memoryTaken(about, channelId))
        this.#over = true
        closed.resolve()
      }
    })
  }

  get counters(): SendCounters {
    return readCounters<SendCounters>(sendCounterNames(), this.#cells)
  }

  /** One counter, read in place. */
  counter(name: keyof SendCounters): number {
    return this.#cells[sendCounterIndex(name)] ?? 0
  }

  /** Everything on the wire so far. */
  get sentBytes(): number {
    return this.counter('sentBytes')
  }

  /** Of the pages that were sent and are not zero, before compression. */
  get normalBytes(): number {
    return this.counter('normalPages') * PAGE_SIZE_BYTES
  }

  /** The engine that runs and how it sends; before `ready` what was asked for. */
  get engineReport(): NativeEngineReport {
    if (this.#live) this.#engineReport = this.#native.engineReport()
    return this.#engineReport
  }

  /**
   * What the peer's kernel acknowledged (tcpi_bytes_acked: data plus one for the SYN); 0 when
   * closed.
   */
  get ackedBytes(): number {
    return this.#native.ackedBytes()
  }

  submitExtent({ blockIndex, firstPage, pageCount, dirtyPages }: ExtentPages): void {
    this.#accepted(this.#native.submitExtent(blockIndex, firstPage, pageCount, dirtyPages))
  }

  /** Full flush, then a SYNC packet. */
  submitSync(): void {
    this.#accepted(this.#native.submitSync())
  }

  /**
   * Sends the state behind everything submitted so far. False: a few are on their way, or the
   * channel is over; the first of them is told by `deviceStateDone`.
   * @throws RangeError if the packet has no room for it
   */
  submitDeviceState({ idstr, instanceId, prefix, data }: DeviceStatePart): boolean {
    encodeName('device', idstr, IDSTR_BYTES_MAX)
    checkUnsigned('instanceId', instanceId, 0xffff_ffff)
    const bytes = prefix.length + data.length
    if (bytes === 0 || bytes > DEVICE_PAYLOAD_BYTES_MAX) {
      throw new RangeError(
        `expected 1 to ${DEVICE_PAYLOAD_BYTES_MAX} bytes of state of device "${idstr}", got ${bytes}`,
      )
    }
    if (prefix.length > DEVICE_PREFIX_BYTES_MAX) {
      throw new RangeError(
        `expected a prefix of at most ${DEVICE_PREFIX_BYTES_MAX} bytes, got ${prefix.length}`,
      )
    }
    return this.#native.submitDeviceState(idstr, instanceId, prefix, data)
  }

  /** Ends the channel after what was submitted: everything released, then an orderly close. */
  close(): Promise<void> {
    this.#over = true
    this.#native.submitClose()
    return this.closed
  }

  /** Ends the channel now; the peer sees a reset if anything was in flight. */
  destroy(): Promise<void> {
    this.#over = true
    this.#native.destroy()
    return this.closed
  }

  /** Zero-copy ends when `zeroCopyUntilBytes` were tried (counter `zeroCopyTriedBytes`). */
  setWaterMarks(marks: {
    highWaterBytes: number
    lowWaterBytes: number
    zeroCopyUntilBytes: number
  }): void {
    const { highWaterBytes, lowWaterBytes, zeroCopyUntilBytes } = marks
    this.#native.setWaterMarks(highWaterBytes, lowWaterBytes, zeroCopyUntilBytes)
  }

  setPacingRate(bytesPerSecond: number): void {
    this.#native.setPacingRate(bytesPerSecond)
  }

  /** Credits bound what is queued; more is a mistake of ours. What is over needs no more. */
  #accepted(accepted: boolean): void {
    if (accepted || this.#over) return
    throw new MultifdError('ERR_MULTIFD_STATE', `multifd channel ${this.channelId} takes no more`)
  }
}
