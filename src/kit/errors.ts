// The one error class of the library and its closed list of codes.
// Everything that a peer, the kernel or the operator can cause is a MultifdError with a stable
// `code`; a mistake in a call is a TypeError or RangeError; our own mistakes are assertions.

/** Stable error codes. Match on `code`, never on the message. */
export const ERROR_CODES = [
  /** The peer sent bytes that the migration stream does not allow. */
  'ERR_MULTIFD_PROTOCOL',
  /** A connection was not the peer that was expected: wrong magic, version, UUID or channel. */
  'ERR_MULTIFD_HANDSHAKE',
  /** A system call on a channel, mapping or tracker failed. */
  'ERR_MULTIFD_CHANNEL',
  /** The peer closed or reset a connection before the migration was over. */
  'ERR_MULTIFD_PEER_CLOSED',
  /** The kernel, the build or the peer lacks something that was asked for. */
  'ERR_MULTIFD_UNSUPPORTED',
  /** The call does not fit the state the migration is in. */
  'ERR_MULTIFD_STATE',
  /** A bound of this implementation was exceeded. */
  'ERR_MULTIFD_LIMIT',
  /** The peer, or a call into a device, took longer than the stated time. */
  'ERR_MULTIFD_TIMEOUT',
  /** The caller's AbortSignal fired; its reason is the `cause`. */
  'ERR_MULTIFD_ABORTED',
  /** The object was closed before the call. */
  'ERR_MULTIFD_CLOSED',
  /** The native addon could not be loaded. */
  'ERR_MULTIFD_NATIVE_LOAD',
  /** A callback of the VMM (stop, resume, or of a device) threw, or gave what it must not. */
  'ERR_MULTIFD_VMM',
  /** A snapshot's directory or one of its files: missing, altered, damaged, not to be written. */
  'ERR_MULTIFD_SNAPSHOT',
] as const

export type ErrorCode = (typeof ERROR_CODES)[number]

/** Where an error happened, as far as it is known. */
export interface ErrorDetails {
  /** 0-based multifd channel. */
  channelId?: number
  /** `packet_num` of the packet in question. */
  packetNum?: number
  /** The system call that failed, e.g. `sendmsg`. */
  syscall?: string
  /** The kernel's error name, e.g. `ECONNRESET`. */
  errno?: string
  /** The error this one was made from. */
  cause?: unknown
}

/** What every failure of a migration looks like. */
export class MultifdError extends Error {
  readonly code: ErrorCode
  // Declared only: what is not known is absent, not undefined.
  declare readonly channelId?: number
  declare readonly packetNum?: number
  declare readonly syscall?: string
  declare readonly errno?: string

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'MultifdError'
    this.code = code
    if (details.channelId !== undefined) this.channelId = details.channelId
    if (details.packetNum !== undefined) this.packetNum = details.packetNum
    if (details.syscall !== undefined) this.syscall = details.syscall
    if (details.errno !== undefined) this.errno = details.errno
  }
}

/** A decoder's answer: decoders are total and never throw. */
export type Result<T> = { ok: true; value: T } | { ok: false; error: MultifdError }

export function ok<T>(value: T): Result<T> {
  return { ok: true, value }
}

export function fail(
  code: ErrorCode,
  message: string,
  details?: ErrorDetails,
): { ok: false; error: MultifdError } {
  return { ok: false, error: new MultifdError(code, message, details) }
}
