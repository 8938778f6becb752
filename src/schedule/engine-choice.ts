// Which engine a migration's channels send with, whether they may use zero-copy, and whether guest
// memory is registered with the kernel first. A pure function of what was asked for, the path and
// what the kernel can; it probes nothing itself. Its sentences are shown to operators.
//
// The rule of `auto`: splice to this machine, io_uring where registered buffers are to be had,
// sendmsg everywhere else.

import type { NativeAbility, NativeEngineName, NativeIoUringAbilities } from '../kit/native.ts'
import { oneOf } from '../kit/options.ts'

export const ENGINES = ['auto', 'sendmsg', 'io-uring', 'splice'] as const
export const ZERO_COPY = ['auto', 'off', 'on'] as const

/** What may be asked for. */
export type Engine = (typeof ENGINES)[number]
export type ZeroCopy = (typeof ZERO_COPY)[number]

/**
 * The options of whoever sends, with their defaults.
 * @throws TypeError naming the option and what it got.
 */
export function checkEngine(options: { engine?: Engine; zeroCopy?: ZeroCopy }): {
  engine: Engine
  zeroCopy: ZeroCopy
} {
  const engine = oneOf('engine', options.engine ?? 'auto', ENGINES)
  const zeroCopy = oneOf('zeroCopy', options.zeroCopy ?? 'auto', ZERO_COPY)
  if (engine === 'splice' && zeroCopy !== 'auto') {
    throw new TypeError(
      `zeroCopy is for the engines 'sendmsg' and 'io-uring': 'splice' never copies pages and has ` +
        `no thresholds, got zeroCopy: '${zeroCopy}'`,
    )
  }
  return { engine, zeroCopy }
}

export interface EngineQuestion {
  readonly asked: { readonly engine: Engine; readonly zeroCopy: ZeroCopy }
  /** `loopback` includes the addresses of our own interfaces. */
  readonly path: 'unix' | 'loopback' | 'network'
  /** The dirty tracker has private copies sent, not guest memory. */
  readonly privateCopies: boolean
  /** Pages are compressed into buffers of the channel. */
  readonly compressed: boolean
  /** Every page is there: registering would make it so. */
  readonly populated: boolean
  /** The locked-memory budget holds all guest memory. */
  readonly lockable: boolean
  /** The VMM may drop pages while migrating: a registered one would go out with its old content. */
  readonly discards: boolean
}

/** What the probe found; why it failed; or undefined where nobody asked. */
export type Probed = NativeIoUringAbilities | string | undefined

export interface EngineChoice {
  readonly engine: NativeEngineName
  /** Whether pages are sent from where they lie, as far as the kernel does it. */
  readonly zeroCopy: boolean
  /** Why they are not; empty if they are. */
  readonly whyPlain: string
  readonly registerMemory: boolean
  /** Why this engine, and why memory is not registered where that was a question. */
  readonly reason: string
}

/**
 * Whether registered memory comes into question, as far as is known without a probe. Ask first with
 * `populated: true`: finding that out costs a walk over the memory.
 */
export function mayRegister(question: EngineQuestion): boolean {
  const { engine } = question.asked
  if (engine === 'sendmsg' || splices(question)) return false
  return whyNotRegistered(question) === undefined
}

/** Whether the probe (20 ms) can make a difference. */
export function needsProbe(question: EngineQuestion): boolean {
  return question.asked.engine === 'io-uring' || mayRegister(question)
}

export function chooseEngine(question: EngineQuestion, probed: Probed): EngineChoice {
  const { engine } = question.asked
  if (splices(question)) return spliced(engine)
  if (engine === 'splice') {
    const why = whyCopied(question)
    return choice(question, 'sendmsg', `engine: 'splice' was asked for, but ${why}`)
  }
  if (engine === 'sendmsg') return choice(question, 'sendmsg', "asked for by engine: 'sendmsg'")
  const missing = whyNotRegistered(question) ?? whyNotFixed(question, probed)
  const registerMemory = missing === undefined
  if (engine === 'auto') {
    if (missing !== undefined) return choice(question, 'sendmsg', withoutBuffers(missing))
    const reason = 'sends can be made from registered buffers'
    return choice(question, 'io-uring', reason, registerMemory)
  }
  const absent = lacking(probed, (abilities) => abilities.ioUring)
  if (absent !== undefined) {
    return choice(question, 'sendmsg', `engine: 'io-uring' was asked for, but ${absent}`)
  }
  const asked = "asked for by engine: 'io-uring'"
  // Without zero-copy nobody misses registered buffers.
  const reason =
    whyPlain(question) === '' && missing !== undefined
      ? `${asked}; memory is not registered: ${missing}`
      : asked
  const chosen = choice(question, 'io-uring', reason, registerMemory)
  if (!chosen.zeroCopy || question.asked.zeroCopy === 'on') return chosen
  const unseen = lacking(probed, (abilities) => abilities.usageReport)
  if (unseen === undefined) return chosen
  return { ...chosen, zeroCopy: false, whyPlain: unseen, registerMemory: false }
}

/** The choice when registering was tried and failed; a failure of it never ends a migration. */
export function chooseUnregistered(
  question: EngineQuestion,
  chosen: EngineChoice,
  why: string,
): EngineChoice {
  const { engine } = question.asked
  if (engine === 'auto') return choice(question, 'sendmsg', withoutBuffers(why))
  return { ...chosen, registerMemory: false, reason: `${chosen.reason}; not registered: ${why}` }
}

function choice(
  question: EngineQuestion,
  engine: NativeEngineName,
  reason: string,
  registerMemory = false,
): EngineChoice {
  const plain = whyPlain(question)
  return { engine, zeroCopy: plain === '', whyPlain: plain, registerMemory, reason }
}

/** Asked for, or the way to this machine: there the kernel copies what MSG_ZEROCOPY sends. */
function splices(question: EngineQuestion): boolean {
  const { asked, path } = question
  if (whyCopied(question) !== '') return false
  if (asked.engine === 'splice') return true
  return asked.engine === 'auto' && asked.zeroCopy === 'auto' && path !== 'network'
}

function spliced(asked: Engine): EngineChoice {
  const reason =
    asked === 'splice'
      ? "asked for by engine: 'splice'"
      : 'the destination is on this machine, where the kernel copies what MSG_ZEROCOPY sends'
  return { engine: 'splice', zeroCopy: true, whyPlain: '', registerMemory: false, reason }
}

/** Why no engine sends pages from where they lie; empty if one may. */
function whyCopied({ asked, privateCopies, compressed }: EngineQuestion): string {
  if (asked.zeroCopy === 'off') return 'zeroCopy is off'
  if (compressed) return 'compressed pages are copies'
  return privateCopies ? 'the hash tracker has private copies of pages sent' : ''
}

/** The same without splice, from the start; what was asked for fails instead. */
function whyPlain(question: EngineQuestion): string {
  if (question.asked.zeroCopy === 'on') return ''
  return whyCopied(question) || (question.path === 'unix' ? 'UNIX sockets have no zero-copy' : '')
}

function whyNotRegistered(question: EngineQuestion): string | undefined {
  const { asked, path, privateCopies, populated, lockable, discards } = question
  const plain = whyPlain(question)
  if (plain !== '') return plain
  if (path === 'unix') return 'UNIX sockets have no zero-copy'
  if (privateCopies) return 'the hash tracker has private copies of pages sent'
  if (path === 'loopback' && !(asked.engine === 'io-uring' && asked.zeroCopy === 'on')) {
    return 'the kernel copies on loopback'
  }
  if (discards) return 'the VMM may discard pages (it does not say discards: false)'
  if (!lockable) return 'the locked-memory limit (RLIMIT_MEMLOCK) does not hold all guest memory'
  return populated ? undefined : 'not all guest memory is populated, registering would make it so'
}

/** What `auto` needs of the kernel, and what suffices for whoever asks for io_uring. */
function whyNotFixed({ asked }: EngineQuestion, probed: Probed): string | undefined {
  const fixed = lacking(probed, (abilities) => abilities.fixedSend)
  if (fixed !== undefined || asked.engine !== 'auto') return fixed
  return (
    lacking(probed, (abilities) => abilities.fixedSendmsg) ??
    lacking(probed, (abilities) => abilities.usageReport)
  )
}

function lacking(
  probed: Probed,
  pick: (abilities: NativeIoUringAbilities) => NativeAbility,
): string | undefined {
  if (probed === undefined) return 'io_uring was not probed'
  if (typeof probed === 'string') return probed
  const { there, reason } = pick(probed)
  return there ? undefined : reason || 'the kernel does not have it'
}

function withoutBuffers(why: string): string {
  return `no registered buffers: ${why}`
}
