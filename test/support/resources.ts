// What the process holds that the addon could have left behind: its own census, descriptors by
// name, and threads by name. Taken before a test and compared after everything was closed.

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { expect } from 'vitest'
import { native } from '../../src/kit/native.ts'

export interface Held {
  census: Record<string, number>
  /** How many descriptors of each name, inode numbers left out. */
  descriptors: Record<string, number>
  /** Names of the threads that are ours. */
  threads: string[]
}

export function held(): Held {
  return { census: native().census(), descriptors: descriptors(), threads: ownThreads() }
}

/** Everything is as it was at `before`. To be called when every close was awaited. */
export function expectNothingLeft(before: Held): void {
  expect(held()).toEqual(before)
  expect(before.census.leakedRecords).toBe(0)
}

function descriptors(): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const fd of readdirSync('/proc/self/fd')) {
    let name: string
    try {
      name = readlinkSync(`/proc/self/fd/${fd}`).replace(/:\[\d+\]$/, '')
    } catch {
      continue // the descriptor of the listing itself
    }
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

function ownThreads(): string[] {
  return readdirSync('/proc/self/task')
    .flatMap((task) => {
      try {
        return [readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim()]
      } catch {
        return [] // ended meanwhile
      }
    })
    .filter((comm) => comm.startsWith('multifd-'))
    .sort()
}
