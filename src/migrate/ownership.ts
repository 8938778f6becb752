// Who owns the guest: one table for each side, and the two objects that keep a migration's place in
// them. Nothing else may decide whether a guest runs. Pure: it knows no sockets, clocks or VMMs;
// events come in from src/migrate, src/relay and src/snapshot, and states go out to them. Drawn in
// docs/ownership.md; test/migrate/ownership.model.test.ts goes through every interleaving.

import assert from 'node:assert/strict'
import { MultifdError } from '../kit/errors.ts'

/** Our own destinations start on the commit; a QEMU starts by itself once it has everything. */
export type PeerKind = 'multifd' | 'qemu'

/** What can end the wait for the destination, as the source's side sees it. */
export type DestinationEnd =
  /** SHUT(0): QEMU has loaded everything; our own end has taken the guest over, behind a commit. */
  | 'shut-success'
  /** SHUT with another status: it failed, and says so. */
  | 'shut-failure'
  /** An orderly end of the connection. A program that is gone ends so, too. */
  | 'closed'
  /** A reset, or a network error: nobody knows what it has read. */
  | 'broken'
  /** Nothing came within peerTimeoutMs. */
  | 'silent'
  /** What came is no answer. */
  | 'garbled'
  /** This side was told to end, or something of its own failed. */
  | 'aborted'

/**
 * - `kept`: the destination does not have the guest and never will; it runs on at the source.
 * - `given`: it has, and never runs at the source again.
 * - `unknown`: it may run there; here it stands still until the operator has looked.
 */
export type Verdict = 'kept' | 'given' | 'unknown'

/** `handed-over`: the destination may have all it needs to run the guest. */
export type SourceState = 'running' | 'stopped' | 'handed-over' | Verdict

export type SourceEvent = 'stop' | 'hand-over' | 'decide-source' | 'decide-destination'

/**
 * - `ready`: everything is loaded; the guest stands still.
 * - `taken`: the guest is this side's, and may run.
 * - `refused`: it never runs here.
 * - `unknown`: all is loaded, the commit did not come and is not accepted any more.
 */
export type DestinationState = 'loading' | 'ready' | 'taken' | 'refused' | 'unknown'

export type DestinationEvent =
  | 'loaded'
  | 'commit'
  | 'failed'
  | 'decide-source'
  | 'decide-destination'

/** Whom the operator names. */
export type Owner = 'source' | 'destination'

/**
 * What the end of the destination's part means.
 * @param handedOver the commit, or to a QEMU the last bytes of the stream, are on their way
 */
export function verdictOf(peer: PeerKind, handedOver: boolean, end: DestinationEnd): Verdict {
  if (!handedOver) return 'kept'
  if (end === 'shut-success') return 'given'
  // A QEMU that has failed or is gone runs no guest. Our own end may still be told by its operator
  // to start what it has loaded, whatever it said before: only an operator can be sure of that.
  const neverRuns = end === 'shut-failure' || end === 'closed'
  return peer === 'qemu' && neverRuns ? 'kept' : 'unknown'
}

/** The source's table; undefined for what must not happen. */
export function nextOfSource(
  peer: PeerKind,
  state: SourceState,
  event: SourceEvent | DestinationEnd,
): SourceState | undefined {
  switch (event) {
    case 'stop':
      return state === 'running' ? 'stopped' : undefined
    case 'hand-over':
      return state === 'stopped' ? 'handed-over' : undefined
    case 'decide-source':
      return state === 'unknown' ? 'kept' : undefined
    case 'decide-destination':
      return state === 'unknown' ? 'given' : undefined
    default:
      if (state === 'kept' || state === 'given') return state
      return verdictOf(peer, state === 'handed-over' || state === 'unknown', event)
  }
}

/** The destination's table, towards a source of ours; undefined for what must not happen. */
export function nextOfDestination(
  state: DestinationState,
  event: DestinationEvent,
): DestinationState | undefined {
  switch (event) {
    case 'loaded':
      return state === 'loading' ? 'ready' : undefined
    case 'commit':
      if (state === 'ready') return 'taken'
      // Too early is a breach. Too late changes nothing: the operator may have looked already.
      return state === 'loading' ? undefined : state
    case 'failed':
      if (state === 'loading') return 'refused'
      return state === 'ready' ? 'unknown' : state
    case 'decide-source':
      return state === 'unknown' ? 'refused' : undefined
    case 'decide-destination':
      return state === 'unknown' ? 'taken' : undefined
  }
}

/** The source's place in the table, for one attempt. A new attempt has a new one. */
export class SourceOwnership {
  readonly #peer: PeerKind
  #state: SourceState = 'running'

  constructor(peer: PeerKind) {
    this.#peer = peer
  }

  get state(): SourceState {
    return this.#state
  }
  /** The guest is this side's again: one that was stopped must be resumed, none other may be. */
  get mayResume(): boolean {
    return this.#state === 'kept'
  }

  /** The VMM's stop is about to be called. */
  stop(): void {
    this.#enter('stop')
  }

  /**
   * The commit, or to a QEMU the last byte of the stream, is about to be written. Call it, and
   * write, in the same turn of the event loop in which you have seen that nothing failed.
   */
  handOver(): void {
    this.#enter('hand-over')
  }

  /** The destination's word or silence, or a failure of this side's own ('aborted'). */
  ended(end: DestinationEnd): Verdict {
    const state = nextOfSource(this.#peer, this.#state, end)
    assert(state === 'kept' || state === 'given' || state === 'unknown')
    this.#state = state
    return state
  }

  /** The operator's word. @throws MultifdError ERR_MULTIFD_STATE unless the state is `unknown`. */
  decide(owner: Owner): void {
    requireUnknown(this.#state, owner)
    this.#enter(`decide-${owner}`)
  }

  #enter(event: SourceEvent): void {
    const state = nextOfSource(this.#peer, this.#state, event)
    assert(state !== undefined, `source: ${event} while the guest is ${this.#state}`)
    this.#state = state
  }
}

/** The destination's place in the table. */
export class DestinationOwnership {
  #state: DestinationState = 'loading'

  get state(): DestinationState {
    return this.#state
  }
  /** The guest may run here now. */
  get mayRun(): boolean {
    return this.#state === 'taken'
  }

  /** All is loaded: "ready" is about to be written. */
  loaded(): void {
    this.#enter('loaded')
  }

  /**
   * The commit came. Whether the guest is this side's: false if it came too late.
   * @throws MultifdError ERR_MULTIFD_PROTOCOL before this side was ready.
   */
  commit(): boolean {
    const state = nextOfDestination(this.#state, 'commit')
    if (state === undefined) {
      throw new MultifdError(
        'ERR_MULTIFD_PROTOCOL',
        'the source handed the guest over before this side was ready',
      )
    }
    this.#state = state
    return this.mayRun
  }

  /** Whatever it was that failed. Once the guest is taken it changes nothing. */
  failed(): DestinationState {
    this.#enter('failed')
    return this.#state
  }

  /** The operator's word. @throws MultifdError ERR_MULTIFD_STATE unless the state is `unknown`. */
  decide(owner: Owner): void {
    requireUnknown(this.#state, owner)
    this.#enter(`decide-${owner}`)
  }

  #enter(event: DestinationEvent): void {
    const state = nextOfDestination(this.#state, event)
    assert(state !== undefined, `destination: ${event} while the guest is ${this.#state}`)
    this.#state = state
  }
}

function requireUnknown(state: SourceState | DestinationState, owner: Owner): void {
  if (owner !== 'source' && owner !== 'destination') {
    throw new TypeError(`owner must be 'source' or 'destination', got ${JSON.stringify(owner)}`)
  }
  if (state === 'unknown') return
  throw new MultifdError(
    'ERR_MULTIFD_STATE',
    `nobody has to decide who has the guest: its state here is ${state}, expected unknown`,
  )
}
