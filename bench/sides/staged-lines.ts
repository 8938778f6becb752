// What a comparison tells a source whose limit changes while it sends, and what that one answers.
import type { GuestPlan } from './side-options.ts'

/** For so long this limit holds. */
export interface Stage {
  readonly bytesPerSecond: number
  readonly ms: number
}

/** The only argument of its process. */
export interface StagedOrder {
  readonly guest: GuestPlan
  readonly channels: number
  /** Devices that always have something to send. */
  readonly unendingDevices: number
  /** From the first byte of RAM on; behind the last one the migration is cancelled. */
  readonly stages: readonly Stage[]
}

/** What was sent up to a moment, bytes. */
export interface StageReading {
  /** CLOCK_MONOTONIC. */
  readonly atMs: number
  readonly ramBytes: number
  /** Of each unending device. */
  readonly deviceBytes: readonly number[]
  /** How many turns devices have had. */
  readonly turns: number
}

/** Its last line. */
export interface StagedDone {
  readonly event: 'done'
  /** At the beginning of each stage, and at the end of the last one. */
  readonly readings: readonly StageReading[]
  /** Which device had a turn, turn by turn. */
  readonly turns: readonly number[]
}
