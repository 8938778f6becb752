// The only loader of the addon, and the types of what it exports. Native calls do not throw: they
// return an error object, which `checked` turns into a MultifdError.

import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { getSystemErrorName } from 'node:util'
import { type ErrorCode, type ErrorDetails, MultifdError } from './errors.ts'
import type { NativeRelayAddon } from './native-relay.ts'

/** How native code reports a failure; `errno` 0 means that no system call failed. */
export interface NativeError {
  code: ErrorCode
  detail: string
  errno: number
  syscall?: string
}

export interface NativeThread {
  /** Names the thread in `drain`. */
  readonly handle: number
  /** Ends the thread soon; a `closed` event follows. Idempotent. */
  destroy(): void
  /** Waits for the end of the thread and frees everything; at once after `closed`. Idempotent. */
  join(): void
  /** Why it failed, after a `failed` event. */
  error(): NativeError | null
}

export interface NativeSendChannel extends NativeThread {
  submitExtent(block: number, firstPage: number, pageCount: number, dirtyPages: number): boolean
  submitSync(): boolean
  /**
   * `data` is sent from its place and held until DEVICE_STATE_DONE, or until the channel is gone;
   * nobody may change, transfer or resize it until then. False: a few are taken already, or the
   * packet has no room for it.
   */
  submitDeviceState(
    idstr: string,
    instanceId: number,
    prefix: Uint8Array,
    data: Uint8Array,
  ): boolean
  submitClose(): boolean
  /** `zeroCopyUntilBytes`: plain sends once so many bytes were tried; Infinity is allowed. */
  setWaterMarks(highBytes: number, lowBytes: number, zeroCopyUntilBytes: number): void
  setPacingRate(bytesPerSecond: number): void
  ackedBytes(): number
  /** What the channel really does; valid after its READY event. */
  engineReport(): NativeEngineReport
}

export type NativeEngineName = 'sendmsg' | 'io-uring' | 'splice'

export interface NativeEngineReport {
  engine: NativeEngineName
  mode: 'plain' | 'zero-copy' | 'splice' | 'zero-copy-fixed'
  /** Sentences: each step from what was asked for to what is done. */
  downgrades: string[]
}

/** Whether something is to be had; `reason` is a sentence where it is not, else empty. */
export interface NativeAbility {
  there: boolean
  reason: string
}

/** What this kernel's io_uring can do for sending, found by trial sends. */
export interface NativeIoUringAbilities {
  ioUring: NativeAbility
  sendZeroCopy: NativeAbility
  sendmsgZeroCopy: NativeAbility
  /** Notifications tell whether the kernel copied after all. */
  usageReport: NativeAbility
  /** Zero-copy from registered memory: one piece per request, or several. */
  fixedSend: NativeAbility
  fixedSendmsg: NativeAbility
  /** One registration of guest memory for the rings of all channels. */
  cloneBuffers: NativeAbility
  /** IORING_SETUP_* of a ring for one thread. */
  setupFlags: number
}

/** What became of a datagram sent with MSG_ZEROCOPY through one network interface. */
export interface NativePathProbe {
  /** `unanswered`: sent, but no notification came in time. */
  verdict: 'not-copied' | 'copied' | 'unanswered' | 'refused'
  /** A sentence for the last two. */
  reason: string
  payloadBytes: number
}

export interface NativeReceiveChannel extends NativeThread {
  releaseSync(): void
  /** After DEVICE_STATE: what arrived; the channel reads on. Null when there is nothing. */
  takeDeviceState(): NativeDeviceState | null
}

/** The state of a device, as it came over a channel. */
export interface NativeDeviceState {
  idstr: string
  instanceId: number
  bytes: Uint8Array
}

export interface NativeConnection {
  readonly isMain: boolean
  readonly channelId: number
  readonly uuid: Uint8Array
  readonly peer: string
  releaseFd(): number
  close(): void
}

export interface NativeListener extends NativeThread {
  readonly port: number
  takeAccepted(): NativeConnection[]
}

export interface NativeGuestMemory {
  readonly token: number
  blocks(): { idstr: string; usedLength: number }[]
  empty(): Promise<undefined | NativeError>
  discard(block: number, firstPage: number, pageCount: number): undefined | NativeError
  view(block: number): ArrayBuffer | null
  populatedBytes(): Promise<number | NativeError>
  isAt(block: number, buffer: ArrayBuffer, offsetBytes: number): boolean
  /** Detaches the views handed over. */
  close(views: ArrayBuffer[]): void
}

export interface NativeDirtyLog {
  mark(block: number, firstPage: number, pageCount: number): void
  orBytes(block: number, firstPage: number, bytes: Uint8Array): void
  /** Gives the bitmaps back; what is marked afterwards goes nowhere. */
  close(): void
}

export interface NativeRamState {
  readonly tracker: string
  start(): Promise<undefined | NativeError>
  beginRound(): Promise<number | NativeError>
  extendRound(): Promise<number | NativeError>
  /**
   * When the connection is gone and its channels have ended: pages of the current round, or of the
   * one before, go into the next one, but for those in `received`. One entry per block, as
   * `receivedSinceSync` gives it; null: nothing of the block arrived. How many pages it were.
   */
  giveBack(
    which: 'current' | 'previous',
    received: (Uint8Array | null)[],
  ): Promise<number | NativeError>
  plan(targetDirtyBytes: number): Promise<Float64Array | NativeError>
  /**
   * Block, first page and count of zero pages that were left out of packets, absent ones included;
   * each once, at most 65536 runs per call, none when there are no more. `zeroPages: 'main'` only.
   */
  takeZeroRuns(): Promise<Float64Array | NativeError>
  collectIntoNext(): Promise<number | NativeError>
  close(): void
}

export interface NativeSendGroup {
  /** Takes about 20 ms; the channels started afterwards go by what was found. */
  probeIoUring(): Promise<NativeIoUringAbilities | NativeError>
  /**
   * All guest memory becomes io_uring's fixed buffers. Every page becomes resident: before tracking
   * is armed and before channels start. `discard` is refused while the migration runs.
   */
  registerMemory(): Promise<undefined | NativeError>
  /** When the channels have ended. Then it is no longer pinned, and the next may register it. */
  unregisterMemory(): Promise<undefined>
  close(): void
}

export interface NativeReceiveGroup {
  /** Pages of the main channel; for runs of pages, not for each. */
  applyZeroRun(block: number, firstPage: number, pageCount: number): undefined | NativeError
  /** `bytes` are whole pages, copied before the call returns. */
  applyPages(block: number, firstPage: number, bytes: Uint8Array): undefined | NativeError
  /**
   * A copy of the bitmap of pages that arrived over the channels since it was last cleared: bit i
   * of the little-endian bitmap is page i, padded to 8 bytes. Complete when the channels have
   * ended.
   */
  receivedSinceSync(block: number): Uint8Array
  /** While all channels are parked at a SYNC, or have ended. */
  clearReceivedSinceSync(): void
  close(): void
}

/** Where to connect or listen: a numeric address, or a UNIX path. */
export interface NativeEndpoint {
  host?: string
  port?: number
  path?: string
}

export interface NativeSendChannelOptions extends NativeEndpoint {
  channelId: number
  uuid: Uint8Array
  connectTimeoutMs: number
  /** Where io_uring is not to be had the channel sends with sendmsg, and says so. */
  engine: NativeEngineName
  /** Of `sendmsg` and `io-uring`. */
  zeroCopy: boolean
  /** False: where the socket refuses zero-copy the channel sends plain, and says so. */
  zeroCopyRequired: boolean
  highWaterBytes: number
  lowWaterBytes: number
  zeroCopyUntilBytes: number
  counters: Float64Array
  /** Packets have room for 472 pages, and not for QEMU's 128; without compression only. */
  largePackets?: boolean
  /** Compressed payloads are sent plain, whatever `zeroCopy` says. Default none. */
  compression?: NativeCompression
  /** zlib 0 to 9, zstd 0 to 20; default 1. */
  compressionLevel?: number
}

/** QEMU's `multifd-compression`; zstd only where its library was there at build time. */
export const COMPRESSIONS = ['none', 'zlib', 'zstd'] as const
export type NativeCompression = (typeof COMPRESSIONS)[number]

export interface NativeCompressionMethod {
  name: NativeCompression
  /** Its bit in the flags of packets. */
  flag: number
  levelMin: number
  levelMax: number
  levelDefault: number
  /** Why this build does not have it, and how to get it; empty where it does. */
  reason: string
}

export interface NativeBlock {
  idstr: string
  kind: 'external' | 'anonymous' | 'memfd' | 'file'
  sizeBytes: number
  hugePages?: boolean
  path?: string
  /** Of a file: it must be there, and cannot be written to. */
  readOnly?: boolean
  buffer?: ArrayBuffer
  offsetBytes?: number
  /** Held for as long as the native side uses the memory: a WebAssembly.Memory. */
  keep?: object
}

export interface NativeAddon extends NativeRelayAddon {
  readonly sendCounterNames: readonly string[]
  readonly receiveCounterNames: readonly string[]
  setWakeup(callback: () => void): void
  drain(out: Float64Array): number
  census(): Record<string, number>
  threadCpuNanoseconds(): number
  /** As of a send group, for whoever only wants to know. */
  probeIoUring(): Promise<NativeIoUringAbilities | NativeError>
  /** Sends one datagram through the network interface of this name, for `multifd doctor`. */
  probePath(interfaceName: string): Promise<NativePathProbe | NativeError>
  compressionMethods(): NativeCompressionMethod[]
  createGuestMemory(blocks: NativeBlock[]): NativeGuestMemory | NativeError
  guestMemoryFromToken(token: number): NativeGuestMemory | NativeError
  createDirtyLog(memory: NativeGuestMemory): NativeDirtyLog | NativeError
  createRamState(
    memory: NativeGuestMemory,
    tracker: 'userfaultfd' | 'hash' | NativeDirtyLog,
  ): NativeRamState | NativeError
  /** `main`: zero pages stay out of packets, for `takeZeroRuns`; default `packets`. */
  createSendGroup(
    ram: NativeRamState,
    options?: { zeroPages: 'packets' | 'main' },
  ): NativeSendGroup | NativeError
  startSendChannel(
    group: NativeSendGroup,
    options: NativeSendChannelOptions,
  ): NativeSendChannel | NativeError
  createReceiveGroup(memory: NativeGuestMemory): NativeReceiveGroup | NativeError
  startReceiveChannel(
    group: NativeReceiveGroup,
    connection: NativeConnection,
    options: {
      counters: Float64Array
      compression?: NativeCompression
      largePackets?: boolean
    },
  ): NativeReceiveChannel | NativeError
  startListener(
    options: NativeEndpoint & { identifyTimeoutMs: number },
  ): NativeListener | NativeError
  /** The parts of a file that are no holes: pairs of first byte and length, ascending. */
  fileDataRanges(path: string, sizeBytes: number): Promise<Float64Array | NativeError>
  /** The codec of native/wire, exported for test/wire/native-packet.test.ts alone. */
  encodeInitialPacket(packet: { uuid: Uint8Array; channelId: number }): Uint8Array | NativeError
  parseInitialPacket(bytes: Uint8Array): { uuid: Uint8Array; channelId: number } | NativeError
  encodeRamHeader(packet: NativeRamHeader<number, string>): Uint8Array | NativeError
  parseRamHeader(
    bytes: Uint8Array,
    usedLength: number,
    compressionFlag?: number,
  ): NativeRamHeader<bigint, Uint8Array> | NativeError
  encodeDeviceHeader(header: NativeDeviceHeader<string>): Uint8Array
  parseDeviceHeader(bytes: Uint8Array): NativeDeviceHeader<Uint8Array> | NativeError
}

/** The native packet codec's view of the header of a device's state, likewise. */
export interface NativeDeviceHeader<Name> {
  idstr: Name
  instanceId: number
  payloadBytes: number
}

/** The native packet codec's view of a RAM packet; only its comparison with src/wire uses it. */
export interface NativeRamHeader<PacketNum, Block> {
  flags: number
  /** Of a compressed packet with normal pages; otherwise it follows from their number. */
  payloadBytes?: number
  packetNum: PacketNum
  block: Block
  normal: number[]
  zero: number[]
}

/** Makes the exception of a native error; `about` says what was being done. */
export function toError(
  error: NativeError,
  about: string,
  details: ErrorDetails = {},
): MultifdError {
  const kernel = error.errno === 0 ? '' : ` (${error.syscall}: ${errnoName(error.errno)})`
  return new MultifdError(error.code, `${about}: ${error.detail}${kernel}`, {
    ...details,
    ...(error.syscall === undefined ? {} : { syscall: error.syscall }),
    ...(error.errno === 0 ? {} : { errno: errnoName(error.errno) }),
  })
}

function errnoName(errno: number): string {
  try {
    return getSystemErrorName(-errno)
  } catch {
    return `errno ${errno}`
  }
}

/** The value of a native call, or the exception for its error object. */
export function checked<T>(value: T | NativeError, about: string): T {
  if (isNativeError(value)) throw toError(value, about)
  return value
}

function isNativeError(value: unknown): value is NativeError {
  return typeof value === 'object' && value !== null && 'detail' in value && 'errno' in value
}

let addon: NativeAddon | undefined

/**
 * The addon; loaded at first use, so that importing the library never fails.
 * @throws MultifdError ERR_MULTIFD_NATIVE_LOAD, with what was tried and the command that fixes it.
 */
export function native(): NativeAddon {
  addon ??= load()
  return addon
}

function load(): NativeAddon {
  const path = process.env.MULTIFD_NATIVE ?? join(packageRoot(), 'build/Release/multifd.node')
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    throw new MultifdError(
      'ERR_MULTIFD_NATIVE_LOAD',
      `multifd runs on Linux x64 and arm64, this is ${process.platform} ${process.arch}`,
    )
  }
  try {
    return createRequire(import.meta.url)(path) as NativeAddon
  } catch (cause) {
    throw new MultifdError(
      'ERR_MULTIFD_NATIVE_LOAD',
      `the native addon ${path} could not be loaded; build it with "npm ci" or "npm run build:native"`,
      { cause },
    )
  }
}

/** From src/kit or dist/src/kit up to the folder that holds binding.gyp. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'binding.gyp')) && folder !== dirname(folder)) {
    folder = dirname(folder)
  }
  return folder
}
