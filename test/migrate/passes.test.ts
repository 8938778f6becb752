// Devices in fair turns, on a fake clock: beside RAM under a limit, with others that never finish,
// hang or say what is not so.

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { DevicePasses, FRUITLESS_TURNS_MAX, type WriteState } from '../../src/migrate/passes.ts'
import { checkDevices, type SaveStateHandler } from '../../src/migrate/save-state.ts'
import { BandwidthAccounts } from '../../src/schedule/bandwidth-accounts.ts'
import { MultifdScheduler } from '../../src/schedule/multifd-scheduler.ts'
import { RateLimiter } from '../../src/schedule/rate-limiter.ts'

const MB = 1e6
const PAGE = 4096
const now = () => performance.now()

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

/** A device that always has more. */
function endless(idstr: string, give = (budgetBytes: number) => budgetBytes): SaveStateHandler {
  return {
    idstr,
    pendingEstimate: () => 1e9,
    iterate: (budgetBytes) => new Uint8Array(give(budgetBytes)),
    complete: () => new Uint8Array(0),
    load: () => {},
  }
}

/** A device with so many bytes. */
function finite(idstr: string, bytes: number): SaveStateHandler {
  let left = bytes
  return {
    ...endless(idstr),
    pendingEstimate: () => left,
    iterate: (budgetBytes) => {
      const given = Math.min(left, budgetBytes)
      left -= given
      return new Uint8Array(given)
    },
  }
}

function make(devices: SaveStateHandler[], bytesPerSecond = 0, write?: WriteState) {
  const limiter = new RateLimiter({ bytesPerSecond, nowMs: now() })
  const accounts = new BandwidthAccounts(limiter)
  const written: { idstr: string; part: string; bytes: number }[] = []
  const passes = new DevicePasses({
    handlers: checkDevices(devices, 1000),
    accounts,
    write:
      write ??
      (async ({ idstr }, part, { length }) => {
        written.push({ idstr, part, bytes: length })
        return length + 14
      }),
    now,
  })
  const turns = () => passes.progress.map((device) => device.turns)
  const sent = () => passes.progress.map((device) => device.sentBytes)
  return { limiter, accounts, passes, written, turns, sent }
}

/** RAM that never ends, on channels that are twenty times as fast as the limit. */
function ram(accounts: BandwidthAccounts, extentPages: number, channels = 2) {
  const account = accounts.open()
  const scheduler = new MultifdScheduler({ channels, rateLimiter: account })
  let sentBytes = 0
  let timer: NodeJS.Timeout | undefined
  const pump = () => {
    clearTimeout(timer)
    for (const action of scheduler.next(now())) {
      if (action.kind === 'sync') continue
      const bytes = action.extent.dirtyPages * PAGE
      const durationMs = (bytes * 1000) / (20 * account.bytesPerSecond)
      setTimeout(() => {
        scheduler.extentDone(action.channelId, bytes * 1.003, now())
        sentBytes += bytes
        pump()
      }, durationMs)
    }
    const waitMs = scheduler.waitMs(now())
    timer = waitMs === undefined ? undefined : setTimeout(pump, waitMs)
  }
  const extents = Array.from({ length: 10_000 }, () => {
    return { blockIndex: 0, firstPage: 0, pageCount: extentPages, dirtyPages: extentPages }
  })
  scheduler.beginRound(extents, 1)
  pump()
  return { sentBytes: () => sentBytes }
}

describe('passes over the devices', () => {
  it('begin every device that has a START, and charge for it', async () => {
    const setup = () => new Uint8Array(1000)
    const { limiter, passes, written } = make(
      [{ ...endless('disk'), setup }, endless('nic'), { ...finite('rtc', 0), iterate: stopOnly() }],
      1 * MB,
    )
    await passes.setup()
    expect(written).toEqual([
      { idstr: 'disk', part: 'setup', bytes: 1000 },
      { idstr: 'nic', part: 'setup', bytes: 0 },
    ])
    expect(limiter.waitMs(now())).toBe(0)
    limiter.charge(0.0195 * MB, now())
    expect(limiter.waitMs(now())).toBe(1)
    expect(passes.progress[0]).toEqual({
      ...{ idstr: 'disk', instanceId: 0, pendingBytes: 0, sentBytes: 1000, turns: 0 },
    })
  })

  it('give each device its turn, and starve none beside one that never finishes', async () => {
    const { passes, written } = make([endless('hog'), finite('disk', 3 * 2 ** 20), endless('nic')])
    const running = passes.run()
    // Nothing here takes time: each step is one pass.
    for (let pass = 0; pass < 5; pass += 1) await vi.advanceTimersToNextTimerAsync()
    await passes.stop()
    await running
    const names = written.map(({ idstr }) => idstr)
    expect(names.slice(0, 9)).toEqual(Array(3).fill(['hog', 'disk', 'nic']).flat())
    expect(names.slice(9, 13)).toEqual(['hog', 'nic', 'hog', 'nic'])
    expect(written.every(({ bytes }) => bytes <= 2 ** 20)).toBe(true)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('share a limit of 32 MB/s with RAM in equal parts', async () => {
    const { accounts, passes, sent, turns } = make([endless('a'), endless('b')], 32 * MB)
    const memory = ram(accounts, 156)
    const running = passes.run()
    let before = turns()
    for (let second = 0; second < 10; second += 1) {
      await vi.advanceTimersByTimeAsync(1000)
      const [a = 0, b = 0] = turns().map((count, i) => count - (before[i] ?? 0))
      expect(Math.abs(a - b), 'passes in which one has no turn').toBeLessThanOrEqual(1)
      before = turns()
    }
    const shares = [memory.sentBytes(), ...sent()]
    for (const share of shares) {
      expect(share / ((10 * 32 * MB) / 3)).toBeGreaterThan(0.95)
      expect(share / ((10 * 32 * MB) / 3)).toBeLessThan(1.05)
    }
    await passes.stop()
    await running
  })

  it('leave what they do not use to RAM, down to low limits', async () => {
    const { accounts, passes, sent } = make([endless('trickle', () => 10)], 4 * MB)
    const memory = ram(accounts, 64)
    const running = passes.run()
    await vi.advanceTimersByTimeAsync(10_000)
    expect(sent()[0]).toBeGreaterThan(0)
    expect(memory.sentBytes() + (sent()[0] ?? 0)).toBeGreaterThan(0.9 * 40 * MB)
    await passes.stop()
    await running
  })

  it('that the limit cut short go on with the device whose turn it was', async () => {
    const devices = ['a', 'b', 'c'].map((idstr) => endless(idstr))
    const { passes, written, turns } = make(devices, 1 * MB)
    let expected = 0
    for (let run = 0; run < 20; run += 1) {
      const running = passes.run()
      await vi.advanceTimersByTimeAsync(27)
      await passes.stop()
      await running
    }
    for (const { idstr } of written) {
      expect(idstr).toBe(['a', 'b', 'c'][expected % 3])
      expected += 1
    }
    expect(expected).toBeGreaterThan(20)
    expect(Math.max(...turns()) - Math.min(...turns())).toBeLessThanOrEqual(1)
  })

  it('follow a limit that is changed while they wait for it', async () => {
    const { limiter, passes, sent } = make([endless('a')], 1000)
    const running = passes.run()
    await vi.advanceTimersByTimeAsync(100)
    expect(sent()[0]).toBe(4096)
    limiter.setLimit(10 * MB, now())
    passes.poke()
    await vi.advanceTimersByTimeAsync(1000)
    expect(sent()[0]).toBeGreaterThan(9.5 * MB)
    limiter.setLimit(0, now())
    await passes.stop()
    await running
  })

  it('idle while nothing is pending, and look again when poked or after a while', async () => {
    let pendingBytes = 0
    let asked = 0
    const pendingEstimate = () => {
      asked += 1
      return pendingBytes
    }
    const iterate = () => {
      pendingBytes = 0
      return new Uint8Array(7)
    }
    const { passes, written } = make([{ ...endless('disk'), pendingEstimate, iterate }])
    const running = passes.run()
    await vi.advanceTimersByTimeAsync(1000)
    expect(asked).toBeLessThanOrEqual(21)
    expect(written).toEqual([])
    pendingBytes = 7
    passes.poke()
    await vi.advanceTimersByTimeAsync(0)
    expect(written).toHaveLength(1)
    pendingBytes = 7
    await vi.advanceTimersByTimeAsync(60)
    expect(written).toHaveLength(2)
    await passes.stop()
    await running
  })

  it('say what remains over all devices, and count it done only when all are', async () => {
    const stopOnlyBytes = { ...endless('vga'), iterate: stopOnly(), pendingEstimate: () => 5 }
    const exact = { ...finite('nic', 100), pendingExact: async () => 120 }
    const { passes } = make([finite('disk', 2 ** 20 + 50), exact, stopOnlyBytes])
    expect(passes.pendingBytes()).toBe(2 ** 20 + 155)
    expect(await passes.pendingExact()).toEqual({
      iterableBytes: 2 ** 20 + 170,
      stopOnlyBytes: 5,
    })
    const running = passes.run()
    await vi.advanceTimersByTimeAsync(1)
    expect(passes.pendingBytes()).toBe(5)
    expect(passes.progress.map((device) => device.pendingBytes)).toEqual([0, 0, 5])
    await passes.stop()
    await running
  })

  it('never call into a device twice at once', async () => {
    let inside = 0
    let most = 0
    const during = async <T>(value: T): Promise<T> => {
      inside += 1
      most = Math.max(most, inside)
      await new Promise((resolve) => setTimeout(resolve, 3))
      inside -= 1
      return value
    }
    const disk: SaveStateHandler = {
      ...endless('disk'),
      iterate: () => during(new Uint8Array(1)),
      pendingExact: () => during(4),
    }
    const { passes } = make([disk])
    const running = passes.run()
    await vi.advanceTimersByTimeAsync(1)
    const exact = Promise.all([passes.pendingExact(), passes.pendingExact()])
    await vi.advanceTimersByTimeAsync(30)
    const four = { iterableBytes: 4, stopOnlyBytes: 0 }
    expect(await exact).toEqual([four, four])
    const stopped = passes.stop()
    await vi.advanceTimersByTimeAsync(3)
    await stopped
    await running
    expect([most, inside]).toEqual([1, 0])
  })

  it('stop after the turn in hand', async () => {
    let finish: () => void = () => {}
    const write: WriteState = async (_handler, _part, { length }) => {
      await new Promise<void>((resolve) => (finish = resolve))
      return length
    }
    const { passes, turns } = make([endless('disk'), endless('nic')], 0, write)
    const running = passes.run()
    await vi.advanceTimersByTimeAsync(100)
    let stopped = false
    const stopping = passes.stop().then(() => (stopped = true))
    await vi.advanceTimersByTimeAsync(100)
    expect(stopped).toBe(false)
    finish()
    await stopping
    await running
    expect(turns()).toEqual([1, 0])
  })

  it('of no device end at once', async () => {
    const { passes } = make([{ ...endless('rtc'), iterate: stopOnly() }])
    await passes.run()
    await passes.stop()
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('a device fails the passes', () => {
  const cases: [string, Partial<SaveStateHandler>, string, RegExp][] = [
    [
      'that always says more and gives nothing',
      { iterate: () => new Uint8Array(0) },
      'VMM',
      /iterate of device "liar" .* gave nothing in 32 successive turns .* 1000000000 bytes remain/,
    ],
    [
      'that gives more than its budget',
      { iterate: (budgetBytes) => new Uint8Array(budgetBytes + 1) },
      'VMM',
      /iterate of device "liar" .* gave 200001 bytes, .* at most 200000/,
    ],
    [
      'that loses count of what is pending',
      { pendingEstimate: () => Number.NaN },
      'VMM',
      /pendingEstimate of device "liar" .* gave NaN/,
    ],
    [
      'that hangs',
      { iterate: () => new Promise(() => {}) },
      'TIMEOUT',
      /iterate of device "liar" .* longer than 1000 ms/,
    ],
    [
      'that throws',
      { iterate: () => Promise.reject(new Error('no disk')) },
      'VMM',
      /iterate of device "liar" \(instance 0\) failed: no disk/,
    ],
  ]
  it.each(cases)('%s', async (_title, parts, code, sentence) => {
    const { passes } = make([endless('well'), { ...endless('liar'), ...parts }], 10 * MB)
    const running = passes.run()
    running.catch(() => {})
    await vi.advanceTimersByTimeAsync(5000)
    await expect(running).rejects.toMatchObject({ code: `ERR_MULTIFD_${code}` })
    await expect(running).rejects.toThrow(sentence)
    await expect(passes.stop()).rejects.toThrow(sentence)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('only after a while, and not if it says 0 meanwhile', async () => {
    let turns = 0
    const iterate = () => {
      turns += 1
      return new Uint8Array(0)
    }
    let pendingBytes = 1
    const disk = { ...endless('disk'), iterate, pendingEstimate: () => pendingBytes }
    const { passes } = make([disk, endless('nic')])
    const running = passes.run()
    // Fast passes: 300 turns, in far less than a third of a second.
    while (turns < 300) await vi.advanceTimersToNextTimerAsync()
    pendingBytes = 0
    await vi.advanceTimersToNextTimerAsync()
    pendingBytes = 1
    const before = turns
    while (turns < before + FRUITLESS_TURNS_MAX) await vi.advanceTimersToNextTimerAsync()
    await passes.stop()
    await running
  })
})

/** No `iterate`: a device that is saved after the stop. */
function stopOnly(): never {
  return undefined as never
}
