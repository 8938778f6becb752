// The watchdog on a clock of its own: silence of the peer is told from our own work, from a held
// event loop, and from progress that only the kernel sees.

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { deferred } from '../../src/kit/deferred.ts'
import type { MultifdError } from '../../src/kit/errors.ts'
import { Watchdog } from '../../src/migrate/watchdog.ts'

let bytes = 0
let acked = 0
let asked = 0
let expired: MultifdError[] = []
let watchdog: Watchdog

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] })
  bytes = 0
  acked = 0
  asked = 0
  expired = []
  watchdog = new Watchdog({
    timeoutMs: 2000,
    progress: () => bytes,
    deepProgress: () => {
      asked += 1
      return acked
    },
    expired: (error) => expired.push(error),
  })
})
afterEach(() => {
  watchdog.stop()
  vi.useRealTimers()
})

/** Time passes, a tick at a time, with something done before each. */
function pass(ms: number, before: () => void = () => {}): void {
  for (let passed = 0; passed < ms; passed += 250) {
    before()
    vi.advanceTimersByTime(250)
  }
}

describe('Watchdog', () => {
  it('reports silence once, after timeoutMs and not before', () => {
    pass(2000)
    expect(expired).toEqual([])
    pass(10_000)
    expect(expired.map(({ code }) => code)).toEqual(['ERR_MULTIFD_TIMEOUT'])
    expect(expired[0]?.message).toContain('2000 ms (peerTimeoutMs)')
  })

  it('is content with bytes, and then does not ask the kernel', () => {
    pass(20_000, () => {
      bytes += 1
    })
    expect(expired).toEqual([])
    expect(asked).toBe(0)
  })

  it('asks the kernel when bytes stand still, and is content with acknowledgements', () => {
    pass(20_000, () => {
      acked += 1
    })
    expect(expired).toEqual([])
    expect(asked).toBeGreaterThan(0)
  })

  it('stands still during our own work, also when two overlap, and starts anew after it', async () => {
    const [work, more] = [deferred(), deferred()]
    const [waiting, waitingMore] = [watchdog.during(work.promise), watchdog.during(more.promise)]
    pass(10_000)
    work.resolve()
    await waiting
    pass(10_000)
    expect(expired).toEqual([])
    more.resolve()
    await waitingMore
    pass(1500)
    expect(expired).toEqual([])
    pass(1500)
    expect(expired).toHaveLength(1)
  })

  it('ends the pause of work that fails, too', async () => {
    await expect(watchdog.during(Promise.reject(new Error('no')))).rejects.toThrow('no')
    pass(3000)
    expect(expired).toHaveLength(1)
  })

  it('does not blame the peer for an event loop that was held', () => {
    pass(1000)
    // The clock jumps without ticks in between: the process was stopped.
    const now = performance.now()
    const frozen = vi.spyOn(performance, 'now').mockImplementation(() => now + 60_000)
    vi.advanceTimersByTime(250)
    expect(expired).toEqual([])
    frozen.mockRestore()
  })

  it('is silent after stop', () => {
    watchdog.stop()
    pass(10_000)
    expect(expired).toEqual([])
  })
})
