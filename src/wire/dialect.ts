// Who the peer is and how it marks sync points: names, capability entries and the commit command
// that only our own ends use, and the two dialects of QEMU. Facts about a peer, no bytes of the
// stream.

import { fail, ok, type Result } from '../kit/errors.ts'
import { CHANNELS_MAX } from '../kit/limits.ts'
import type { NativeCompression } from '../kit/native.ts'
import { checkUnsigned } from './bytes.ts'

/**
 * Where a sync point is: at every EOS word (`per-section`, machine types up to 8.0) or at every
 * MULTIFD_FLUSH word (`per-round`, 8.1 and newer, and between our own ends).
 */
export type Dialect = 'per-section' | 'per-round'

const OWN_MACHINE_PREFIX = 'multifd/'

/** The machine name our own sources send; the number changes when the format of our parts does. */
export const OWN_MACHINE_NAME = `${OWN_MACHINE_PREFIX}1`

/**
 * The source gives its guest up. Empty data, only between our own ends, only after EOF and only as
 * the answer to SHUT(0), which means "ready" here. QEMU's command numbers end at 11.
 */
export const OWN_COMMAND_COMMIT = 0x4d01

/**
 * The value of a PONG that answers no PING: the destination is at work that the source has to wait
 * for, such as loading a device. Only between our own ends.
 */
export const OWN_PONG_AT_WORK = 0xffff_fffe

/**
 * The source gives the migration up: a destination that would wait for another connection need not.
 * Empty data, only between our own ends, before the commit.
 */
export const OWN_COMMAND_CANCEL = 0x4d02

/** Whether the other end is one of ours, of any version. */
export function isOwnMachine(machineName: string): boolean {
  return machineName.startsWith(OWN_MACHINE_PREFIX)
}

/**
 * The dialect a machine type implies, e.g. `pc-q35-7.2` per-section and `virt-9.1` per-round.
 * Undefined for unversioned and downstream names: the operator must say then, because the wrong
 * dialect hangs both ends.
 */
export function dialectOfMachine(machineName: string): Dialect | undefined {
  if (isOwnMachine(machineName)) return 'per-round'
  const version = /-(\d{1,4})\.(\d{1,4})$/.exec(machineName)
  if (version === null) return undefined
  const [major, minor] = [Number(version[1]), Number(version[2])]
  return major < 8 || (major === 8 && minor === 0) ? 'per-section' : 'per-round'
}

/**
 * Finds a source's dialect from the words of its first RAM section: a FLUSH before the first EOS
 * means per-round, because every such source sends one during setup.
 */
export class DialectDetector {
  #dialect: Dialect | undefined

  /** Undefined until the first FLUSH or EOS was observed. */
  get dialect(): Dialect | undefined {
    return this.#dialect
  }

  /** Call for every FLUSH and EOS in order. @returns true if this word is a sync point */
  observe(word: 'ram-flush' | 'ram-eos'): boolean {
    this.#dialect ??= word === 'ram-flush' ? 'per-round' : 'per-section'
    return this.#dialect === (word === 'ram-flush' ? 'per-round' : 'per-section')
  }
}

/** What our own ends tell each other in QEMU's capability list. */
export interface OwnCapabilities {
  /** Number of multifd channels the source is going to open, 1 .. 255. */
  channels: number
  /** The source answers "ready" with the commit command and keeps its guest until then. */
  commit: boolean
  /** What pages are compressed with. */
  compression: NativeCompression
  /**
   * The source can resume on a new connection: 32 lower-case hexadecimal digits, the same on all
   * connections of a migration, and unguessable. Default: it cannot.
   */
  resume?: string
  /**
   * Another connection carried this migration before; with `resume`. The multifd channels of this
   * one bring these 16 bytes as their UUID, 32 lower-case hexadecimal digits: those of an attempt
   * before must not be taken for them. Default: it is the first.
   */
  resuming?: string
  /** Uncompressed packets have room for 472 pages, and not for QEMU's 128. Default false. */
  largePackets?: boolean
  /** The source stops its guest only when the destination's devices are ready. Default false. */
  switchoverAck?: boolean
}

const CHANNELS_KEY = 'multifd-channels='
const COMMIT_ENTRY = 'commit'
/** Named as QEMU's parameter; absent for none, as versions before it were. */
const COMPRESSION_KEY = 'multifd-compression='
const RESUME_KEY = 'resume='
const RESUMING_KEY = 'resuming='
/** Of both. */
const RESUME_TOKEN = /^[0-9a-f]{32}$/
/** Named as QEMU's capability. */
const SWITCHOVER_ACK_ENTRY = 'switchover-ack'
const LARGE_PACKETS_ENTRY = 'large-packets'
const METHODS: readonly NativeCompression[] = ['none', 'zlib', 'zstd']

/** @throws RangeError if the number of channels is not 1 .. 255, or the token not 32 digits */
export function formatOwnCapabilities(own: OwnCapabilities): string[] {
  const { channels, commit, compression, resume, resuming } = own
  const { switchoverAck = false, largePackets = false } = own
  if (channels === 0) throw new RangeError(`expected channels to be 1 .. ${CHANNELS_MAX}, got 0`)
  checkUnsigned('channels', channels, CHANNELS_MAX)
  for (const token of [resume, resuming]) {
    if (token === undefined || RESUME_TOKEN.test(token)) continue
    throw new RangeError('expected the resume token to be 32 lower-case hexadecimal digits')
  }
  return [
    `${CHANNELS_KEY}${channels}`,
    ...(commit ? [COMMIT_ENTRY] : []),
    ...(compression === 'none' ? [] : [`${COMPRESSION_KEY}${compression}`]),
    ...(resume === undefined ? [] : [`${RESUME_KEY}${resume}`]),
    ...(resuming === undefined ? [] : [`${RESUMING_KEY}${resuming}`]),
    ...(switchoverAck ? [SWITCHOVER_ACK_ENTRY] : []),
    ...(largePackets ? [LARGE_PACKETS_ENTRY] : []),
  ]
}

/** Reads the list of one of our own sources. An unknown entry is refused: it asks for something. */
export function parseOwnCapabilities(capabilities: readonly string[]): Result<OwnCapabilities> {
  let channels: number | undefined
  let commit = false
  let compression: NativeCompression | undefined
  let resume: string | undefined
  let resuming: string | undefined
  let switchoverAck = false
  let largePackets = false
  for (const entry of capabilities) {
    if (entry === COMMIT_ENTRY && !commit) {
      commit = true
    } else if (entry === SWITCHOVER_ACK_ENTRY && !switchoverAck) {
      switchoverAck = true
    } else if (entry === LARGE_PACKETS_ENTRY && !largePackets) {
      largePackets = true
    } else if (entry.startsWith(RESUME_KEY) && resume === undefined) {
      resume = entry.slice(RESUME_KEY.length)
      if (!RESUME_TOKEN.test(resume)) return refuseToken(resume)
    } else if (entry.startsWith(RESUMING_KEY) && resuming === undefined) {
      resuming = entry.slice(RESUMING_KEY.length)
      if (!RESUME_TOKEN.test(resuming)) return refuseToken(resuming)
    } else if (entry.startsWith(CHANNELS_KEY) && channels === undefined) {
      const text = entry.slice(CHANNELS_KEY.length)
      channels = /^[1-9]\d{0,2}$/.test(text) ? Number(text) : Number.NaN
      if (!(channels <= CHANNELS_MAX)) {
        return refuse(`the source announces ${quote(text)} channels, expected 1 .. ${CHANNELS_MAX}`)
      }
    } else if (entry.startsWith(COMPRESSION_KEY) && compression === undefined) {
      const text = entry.slice(COMPRESSION_KEY.length)
      compression = METHODS.find((method) => method === text)
      if (compression === undefined) {
        return refuse(`the source compresses with ${quote(text)}, expected ${METHODS.join(', ')}`)
      }
    } else {
      return refuse(
        `the source asks for ${quote(entry)}, which this version does not know or got twice; ` +
          'run the same version on both ends',
      )
    }
  }
  if (channels === undefined) return refuse(`the source announces no ${CHANNELS_KEY}N capability`)
  return ok({
    ...{ channels, commit, compression: compression ?? 'none' },
    ...(resume === undefined ? {} : { resume }),
    ...(resuming === undefined ? {} : { resuming }),
    ...(switchoverAck ? { switchoverAck } : {}),
    ...(largePackets ? { largePackets } : {}),
  })
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 64))
}

function refuseToken(token: string): Result<OwnCapabilities> {
  return refuse(
    `the source resumes with ${quote(token)}, expected 32 lower-case hexadecimal digits`,
  )
}

function refuse(problem: string): Result<OwnCapabilities> {
  return fail('ERR_MULTIFD_HANDSHAKE', problem)
}
