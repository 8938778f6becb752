// What the destination of ours says on the return path, and what of it may be said when. It reads
// bytes and settles what others wait for; it writes nothing.

import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { OWN_PONG_AT_WORK } from '../wire/dialect.ts'
import { type ReturnPathEvent, ReturnPathReader } from '../wire/return-path.ts'

/** The value of a PING that only says that we are still there. */
export const KEEP_ALIVE = 0xffff_ffff

/** What a destination that takes a migration up again has. */
export interface ResumeAnswer {
  /** Rounds whose sync it collected, all of its connections together. */
  collectedRounds: number
  /** Per RAM block, in our order, the pages that came since: one bit per page, little-endian. */
  received: Uint8Array[]
}

/** A RAM block, as the answer to a resumed connection is about it. */
export interface BlockPages {
  idstr: string
  pageCount: number
}

export class DestinationAnswers {
  /** Hears of everything that goes wrong. */
  readonly fail: (error: MultifdError) => void
  /** Another connection carried this migration before. */
  readonly resuming: boolean
  readonly #blocks: readonly BlockPages[]
  readonly #reader: ReturnPathReader
  readonly #ready: Deferred<void> = deferred()
  readonly #taken: Deferred<void> = deferred()
  readonly #switchoverAck: Deferred<void> = deferred()
  readonly #resumeAnswer: Deferred<ResumeAnswer> = deferred()
  /** Of the answer: what came so far. */
  readonly #received = new Map<string, Uint8Array>()
  #collectedRounds: number | undefined
  /** Somebody waits for the PONG of this round, or a later one. */
  #awaited: { round: number; answered: Deferred<void> } | undefined
  #switchoverAcked = false
  /** The PINGs that have no answer yet, oldest first. */
  readonly #pings: { round: number; sentMs: number; answered: Deferred<void> }[] = []
  #roundTripMs = Number.POSITIVE_INFINITY
  #atWork = 0
  #lastPong = -1
  #refused = false
  /** SHUT(0) comes twice: behind EOF, and behind the commit. */
  #expected: 'nothing' | 'ready' | 'commit' | 'taken' | 'end' = 'nothing'

  constructor(options: {
    fail: (error: MultifdError) => void
    blocks: readonly BlockPages[]
    resuming: boolean
  }) {
    this.fail = options.fail
    this.resuming = options.resuming
    this.#blocks = options.blocks
    this.#reader = new ReturnPathReader({ resumeBlocks: options.blocks })
  }

  /** A PING goes out. Resolves when it is answered. */
  expectPong(round: number): Promise<void> {
    const answered = deferred()
    this.#pings.push({ round, sentMs: performance.now(), answered })
    return answered.promise
  }

  /** How often it said, unasked, that it is at work. */
  get atWork(): number {
    return this.#atWork
  }
  /** A PING has no answer yet. */
  get owesPong(): boolean {
    return this.#pings.length > 0
  }

  /** EOF goes out. */
  expectReady(): void {
    this.#expected = 'ready'
  }

  /** The commit goes out. */
  expectTaken(): void {
    this.#expected = 'taken'
  }

  /** Resolves when the destination has loaded everything: SHUT(0), "ready". */
  get ready(): Promise<void> {
    return this.#ready.promise
  }
  /** Resolves when the destination has taken the guest over: SHUT(0) once more. */
  get taken(): Promise<void> {
    return this.#taken.promise
  }

  /**
   * Resolves when the destination has collected the sync of this round (counted from 1; 0: its
   * memory is empty and its channels are there).
   */
  async acknowledged(round: number): Promise<void> {
    const collectedBefore = this.resuming ? (this.#collectedRounds ?? -1) : -1
    if (Math.max(this.#lastPong, collectedBefore) >= round) return
    this.#awaited = { round, answered: deferred() }
    await this.#awaited.answered.promise
  }

  /** What a destination that can resume says before anything else. */
  get resumeAnswer(): Promise<ResumeAnswer> {
    return this.#resumeAnswer.promise
  }
  /** The destination keeps what it has when the connection breaks, and waits for the next one. */
  get peerResumes(): boolean {
    return this.#collectedRounds !== undefined && !this.#refused
  }
  /** It said that the migration failed there, or that it does not know it. */
  get refused(): boolean {
    return this.#refused
  }
  /** As far as is known: its word on that comes before the answer to the first PING. */
  get mayResume(): boolean {
    return this.peerResumes || (this.#lastPong < 0 && !this.#refused)
  }
  /** Resolves when the destination's devices could take the switchover. */
  get switchoverAcked(): boolean {
    return this.#switchoverAcked
  }
  get switchoverAck(): Promise<void> {
    return this.#switchoverAck.promise
  }

  /**
   * The shortest time from a PING to its PONG, milliseconds; 0 until there is one. The shortest, as
   * an answer may wait for the destination's own work: the first for its memory to be emptied,
   * those of rounds for the pages before them.
   */
  get roundTripMs(): number {
    return Number.isFinite(this.#roundTripMs) ? this.#roundTripMs : 0
  }

  received(bytes: Uint8Array): void {
    const { events, error } = this.#reader.push(bytes)
    for (const event of events) this.#answered(event)
    if (error !== undefined) this.fail(error)
  }

  ended(): void {
    const end = this.#reader.end()
    if (this.#expected === 'end' && end.ok) return
    this.fail(
      end.ok
        ? new MultifdError(
            'ERR_MULTIFD_PEER_CLOSED',
            'the destination closed the main channel before it took the guest over: look for the ' +
              'reason there',
          )
        : end.error,
    )
  }

  #answered(event: ReturnPathEvent): void {
    switch (event.kind) {
      case 'pong':
        this.#ponged(event.value)
        return
      case 'shut':
        this.#shut(event.status)
        return
      case 'switchover-ack':
        this.#switchoverAcked = true
        this.#switchoverAck.resolve()
        return
      case 'resume-ack':
        this.#collectedRounds = event.rounds
        break
      case 'recv-bitmap':
        this.#received.set(event.idstr, event.bitmap)
    }
    this.#answerResume()
  }

  /** Once it is complete: the rounds, and towards a resumed connection a bitmap for each block. */
  #answerResume(): void {
    const collectedRounds = this.#collectedRounds
    if (collectedRounds === undefined) return
    const blocks = this.resuming ? this.#blocks : []
    const received = blocks.map(({ idstr }) => this.#received.get(idstr))
    if (!received.every((bitmap) => bitmap !== undefined)) return
    this.#resumeAnswer.resolve({ collectedRounds, received })
  }

  /** PINGs carry numbers of rounds, and are answered in order, once the sync was collected. */
  #ponged(value: number): void {
    if (value === OWN_PONG_AT_WORK) {
      this.#atWork += 1
      return
    }
    const ping = this.#pings.shift()
    if (value !== ping?.round) {
      this.#refuse(`PONG ${value} came, expected ${ping?.round ?? this.#lastPong + 1}`)
      return
    }
    ping.answered.resolve()
    this.#roundTripMs = Math.min(this.#roundTripMs, performance.now() - ping.sentMs)
    if (value === KEEP_ALIVE) return
    this.#lastPong = value
    if (this.#awaited !== undefined && value >= this.#awaited.round)
      this.#awaited.answered.resolve()
  }

  #shut(status: number): void {
    if (status !== 0) {
      this.#refused = true
      this.fail(
        new MultifdError(
          'ERR_MULTIFD_PEER_CLOSED',
          `the destination reported that the migration failed there (SHUT ${status}): look for the ` +
            'reason there',
        ),
      )
    } else if (this.#expected === 'taken') {
      this.#expected = 'end'
      this.#taken.resolve()
    } else if (this.#expected === 'ready' && this.#pings.length === 0) {
      this.#expected = 'commit'
      this.#ready.resolve()
    } else {
      this.#refuse('the destination says that it is ready before it can have everything')
    }
  }

  #refuse(problem: string): void {
    this.fail(new MultifdError('ERR_MULTIFD_PROTOCOL', `return path: ${problem}`))
  }
}
