// Gives pieces of device state to the multifd channels: each to the one that has the fewest out, in
// the order in which they came. It knows channels by one call and counts what they report.

import assert from 'node:assert/strict'
import { type Deferred, deferred } from '../kit/deferred.ts'
import type { OutgoingPiece } from './device-saver.ts'

/**
 * Pieces that a channel holds, as many as it takes at a time (native/channel/command_queue.h): one
 * that it sends, and three that last while a VMM holds the event loop.
 */
const PIECES_PER_CHANNEL_MAX = 4

/** What is asked of a send channel. */
export interface PieceChannel {
  /**
   * Sends the piece in its turn; its memory is read until the channel reports it as done. False:
   * the channel is over, which whoever watches channels hears of, and `fail` from there.
   */
  submitDeviceState(piece: OutgoingPiece): boolean
}

export class PieceChannels {
  readonly #channels: readonly PieceChannel[]
  /** Per channel, what it holds, oldest first. */
  readonly #held: Deferred<void>[][]
  readonly #waiting: { piece: OutgoingPiece; sent: Deferred<void> }[] = []
  #error: unknown

  constructor(channels: readonly PieceChannel[]) {
    this.#channels = channels
    this.#held = channels.map(() => [])
  }

  /** A piece is on its way. */
  get sending(): boolean {
    return this.#held.some((held) => held.length > 0)
  }

  /** Resolves when a channel has sent it; rejects if the migration failed first. */
  async submit(piece: OutgoingPiece): Promise<void> {
    if (this.#error !== undefined) throw this.#error
    const sent = deferred()
    this.#waiting.push({ piece, sent })
    this.#pump()
    await sent.promise
  }

  /** The channel reports its oldest piece as sent. */
  done(channelId: number): void {
    const sent = this.#held[channelId]?.shift()
    assert(sent !== undefined || this.#error !== undefined, `channel ${channelId} holds no piece`)
    sent?.resolve()
    this.#pump()
  }

  /** The migration failed: nothing more is sent, and nobody waits. */
  fail(error: unknown): void {
    this.#error ??= error
    for (const sent of this.#held.flat()) sent.reject(error)
    for (const { sent } of this.#waiting) sent.reject(error)
    for (const held of this.#held) held.length = 0
    this.#waiting.length = 0
  }

  #pump(): void {
    for (;;) {
      const channelId = this.#freest()
      const next = channelId === undefined ? undefined : this.#waiting.shift()
      if (channelId === undefined || next === undefined) return
      this.#held[channelId]?.push(next.sent)
      this.#channels[channelId]?.submitDeviceState(next.piece)
    }
  }

  #freest(): number | undefined {
    const counts = this.#held.map((held) => held.length)
    const fewest = Math.min(...counts)
    return fewest < PIECES_PER_CHANNEL_MAX ? counts.indexOf(fewest) : undefined
  }
}
