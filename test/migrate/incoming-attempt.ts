// One attempt of a hostile source at a real destination: listen, play a script of raw connections,
// and what became of it.

import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { MigrationDestination } from '../../src/destination.ts'
import { MultifdError } from '../../src/kit/errors.ts'
import { native } from '../../src/kit/native.ts'
import type { MigrationDestinationOptions } from '../../src/migrate/destination-options.ts'
import type { IncomingResult } from '../../src/migrate/progress.ts'
import type { GuardedGuest } from './guarded-guest.ts'
import { RawConnection } from './raw-peer.ts'

/** Ends a hang of the test; no check depends on it. */
const HANG_MS = 20_000

export type Outcome = IncomingResult | MultifdError

let paths = 0

/** A UNIX path of its own: no ports are used up by thousands of attempts. */
export function socketUri(): string {
  paths += 1
  return `unix:${join(tmpdir(), `multifd-test-${process.pid}-${paths}`)}`
}

/** Opens connections to the destination under test, and closes them all in the end. */
export class Script {
  readonly uri: string
  readonly #open: RawConnection[] = []

  constructor(uri: string) {
    this.uri = uri
  }

  async connect(...parts: Uint8Array[]): Promise<RawConnection> {
    const connection = await RawConnection.to(this.uri)
    this.#open.push(connection)
    return connection.send(...parts)
  }

  async close(): Promise<void> {
    await Promise.all(this.#open.map((connection) => connection.destroy()))
  }
}

export interface Attempt {
  guest: GuardedGuest
  uri?: string
  options?: Partial<MigrationDestinationOptions>
  /** Runs beside the destination; what it opened stays open until the destination is over. */
  play: (script: Script) => Promise<unknown>
}

/**
 * Settles when the destination is over; everything is closed then. Throws what is no MultifdError.
 */
export async function attempt({ guest, uri, options, play }: Attempt): Promise<Outcome> {
  const address = uri ?? socketUri()
  const destination = await MigrationDestination.listen(address, {
    memory: guest.memory,
    handshakeTimeoutMs: HANG_MS,
    peerTimeoutMs: HANG_MS,
    ...options,
  })
  const script = new Script(destination.uri)
  try {
    const [outcome] = await Promise.all([destination.completed.catch(expectError), play(script)])
    return outcome
  } finally {
    await destination.close()
    await script.close()
    if (address.startsWith('unix:')) rmSync(address.slice(5), { force: true })
    guest.expectGuardsIntact()
  }
}

function expectError(error: unknown): MultifdError {
  if (error instanceof MultifdError) return error
  throw error
}

/** The refusal has this code, and its sentence says this. */
export function expectRefusal(outcome: Outcome, code: string, ...sentence: RegExp[]): void {
  if (!(outcome instanceof MultifdError)) throw new Error('the migration completed')
  expect(`${outcome.code} ${outcome.message}`).toMatch(new RegExp(`^${code} `))
  for (const part of sentence) expect(outcome.message).toMatch(part)
}

/** Memory stays registered between attempts; nothing else may. */
export function census(): Record<string, number> {
  return native().census()
}
