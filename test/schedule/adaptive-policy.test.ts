// Each rule of the adaptive policy by itself, and stories: what a channel answers, and which marks
// with which reason follow. A story's channel sends one extent of 16 MiB per line.

import { describe, expect, it } from 'vitest'
import { adaptivePolicy } from '../../src/schedule/adaptive-policy.ts'
import {
  type AdaptiveSnapshot,
  type AdaptiveThresholds,
  FLUSH_REASONS,
  marksDiffer,
  startThresholds,
} from '../../src/schedule/adaptive-thresholds.ts'

const KIB = 1024
const MIB = 1024 * KIB
const EXTENT = 16 * MIB
const UNLIMITED = Number.POSITIVE_INFINITY

/** What is added to the counters while an extent is sent; the extent itself is plain. */
type Answer = Partial<Omit<AdaptiveSnapshot, 'channelId'>>

const plain: Answer = {}
const burstCopied: Answer = { zeroCopyTriedBytes: MIB, copiedBytes: MIB }
const burstZeroCopied: Answer = { zeroCopyTriedBytes: MIB, zeroCopyBytes: MIB }
const zeroCopied: Answer = { zeroCopyTriedBytes: EXTENT, zeroCopyBytes: EXTENT }
const allCopied: Answer = { zeroCopyTriedBytes: EXTENT, copiedBytes: EXTENT }
const dry: Answer = { ...zeroCopied, waitsAtHighWater: 8, dryWaits: 8 }
const wet: Answer = {
  ...zeroCopied,
  waitsAtHighWater: 8,
  unreleasedRecentHighBytes: 8 * MIB,
}

class Channel {
  snapshot: AdaptiveSnapshot
  thresholds: AdaptiveThresholds
  budgetBytes: number

  constructor(budgetBytes = UNLIMITED) {
    this.budgetBytes = budgetBytes
    this.thresholds = startThresholds(budgetBytes)
    this.snapshot = {
      channelId: 0,
      sentBytes: 0,
      unreleasedBytes: 0,
      unreleasedHighBytes: 0,
      unreleasedRecentHighBytes: 0,
      refusals: 0,
      ...this.thresholds.memory.seen,
    }
  }

  /** Unreleased bytes are as of now; everything else is added. */
  answer(answer: Answer, times = 1): AdaptiveThresholds {
    for (let i = 0; i < times; i += 1) {
      const { unreleasedBytes = 0, unreleasedRecentHighBytes = 0, ...added } = answer
      const grown: Record<string, number> = { ...this.snapshot }
      for (const [name, value] of Object.entries({ sentBytes: EXTENT, ...added })) {
        grown[name] = (grown[name] ?? 0) + value
      }
      this.snapshot = {
        ...this.snapshot,
        ...grown,
        unreleasedBytes,
        unreleasedRecentHighBytes,
      }
      this.thresholds = adaptivePolicy(this.snapshot, this.thresholds, this.budgetBytes)
    }
    return this.thresholds
  }

  /** A channel whose first probe succeeded, at 768 KiB. */
  static on(budgetBytes = UNLIMITED): Channel {
    const channel = new Channel(budgetBytes)
    channel.answer(burstZeroCopied)
    expect(channel.thresholds.mode).toBe('on')
    return channel
  }
}

type Line = [answer: Answer, times: number, highKib: number, reason: string]

function tell(channel: Channel, lines: Line[]): void {
  const told = lines.map(([answer, times]) => {
    const { highWaterBytes, reason } = channel.answer(answer, times)
    return [highWaterBytes / KIB, reason]
  })
  expect(told).toEqual(lines.map(([, , highKib, reason]) => [highKib, reason]))
}

describe('stories', () => {
  it('loopback: one burst, then off, and a burst after 1 GiB and 2 GiB', () => {
    tell(new Channel(), [
      [burstCopied, 1, 0, 'copied by the kernel'],
      [plain, 63, 0, 'copied by the kernel'],
      [plain, 1, 768, 'probing'],
      [burstCopied, 1, 0, 'copied by the kernel'],
      [plain, 127, 0, 'copied by the kernel'],
      [plain, 1, 768, 'probing'],
      [burstCopied, 1, 0, 'copied by the kernel'],
    ])
  })

  it('a long fast path: four times the first mark, then doubles until the pipe is full', () => {
    tell(new Channel(), [
      [burstZeroCopied, 1, 768, 'probe succeeded'],
      [dry, 1, 3072, 'waited at the mark'],
      // Some of this extent's waits were for what was sent under the old marks.
      [dry, 1, 3072, 'waited at the mark'],
      [dry, 1, 6144, 'waited at the mark'],
      [dry, 1, 6144, 'waited at the mark'],
      [dry, 1, 12288, 'waited at the mark'],
      [wet, 20, 12288, 'waited at the mark'],
      // Is half of it enough? No; the next try comes after twice the bytes.
      [wet, 12, 6144, 'trying less'],
      [dry, 2, 12288, 'waited at the mark'],
      [wet, 63, 12288, 'waited at the mark'],
      [wet, 1, 6144, 'trying less'],
    ])
  })

  it('tcpdump comes and goes: a burst decides each time', () => {
    const channel = Channel.on()
    tell(channel, [
      [zeroCopied, 16, 768, 'probe succeeded'],
      [allCopied, 1, 768, 'copied by the kernel'],
    ])
    expect(channel.thresholds.mode).toBe('probing')
    tell(channel, [
      [burstCopied, 1, 0, 'copied by the kernel'],
      [plain, 64, 768, 'probing'],
      [burstZeroCopied, 1, 768, 'probe succeeded'],
    ])
  })

  it('8 MiB of locked memory that others use, too: below what was pinned, and not above it soon', () => {
    const refused = { ...dry, refusedByMemlock: 3, unreleasedRecentHighBytes: 3 * MIB }
    const channel = Channel.on()
    tell(channel, [
      [dry, 1, 3072, 'waited at the mark'],
      [dry, 2, 6144, 'waited at the mark'],
      [refused, 1, 2304, 'locked memory'],
      [dry, 63, 2304, 'locked memory'],
      // After 1 GiB it may be tried again.
      [dry, 1, 4608, 'waited at the mark'],
      [refused, 1, 2304, 'locked memory'],
      [dry, 127, 2304, 'locked memory'],
      [dry, 1, 4608, 'waited at the mark'],
    ])
  })

  it('refused at the least mark three times in a row: off, and probed later', () => {
    const refused = { ...zeroCopied, refusedByOptmem: 1, unreleasedRecentHighBytes: 512 * KIB }
    const channel = Channel.on()
    tell(channel, [
      [refused, 1, 384, 'option memory'],
      [refused, 1, 192, 'option memory'],
      [refused, 1, 128, 'option memory'],
      [refused, 2, 128, 'option memory'],
      [refused, 1, 0, 'option memory'],
      [plain, 64, 768, 'probing'],
      // The ceiling is still there.
      [burstZeroCopied, 1, 128, 'probe succeeded'],
    ])
    expect(channel.thresholds.decisions).toMatchObject({ 'option memory': 6, probing: 1 })
  })
})

describe('a probe', () => {
  it('starts with the channel and is bounded, unless the budget holds nothing', () => {
    const started = { mode: 'probing', zeroCopyUntilBytes: 256 * KIB, reason: 'started' }
    expect(startThresholds(UNLIMITED)).toMatchObject({ ...started, highWaterBytes: 768 * KIB })
    expect(startThresholds(200 * KIB)).toMatchObject({ ...started, highWaterBytes: 200 * KIB })
    const off = { mode: 'off', zeroCopyUntilBytes: 0, highWaterBytes: 0, reason: 'locked memory' }
    expect(startThresholds(128 * KIB - 1)).toMatchObject(off)
  })

  it('waits for its answers, and takes what there is when all is released', () => {
    const channel = new Channel()
    const before = channel.thresholds
    const sent = { zeroCopyTriedBytes: MIB, zeroCopyBytes: 100 * KIB }
    expect(channel.answer({ ...sent, unreleasedBytes: 900 * KIB })).toBe(before)
    expect(channel.answer(plain)).toMatchObject({ mode: 'on', reason: 'probe succeeded' })
    expect(channel.thresholds.zeroCopyUntilBytes).toBe(UNLIMITED)
  })

  it('that could not be sent is repeated; one that was refused ends in off', () => {
    const channel = new Channel()
    expect(channel.answer({ zeroCopyTriedBytes: MIB })).toMatchObject({
      mode: 'probing',
      zeroCopyUntilBytes: MIB + 256 * KIB,
    })
    const refused = { zeroCopyTriedBytes: MIB, refusedByMemlock: 7 }
    expect(channel.answer(refused)).toMatchObject({ mode: 'off', reason: 'locked memory' })
  })

  it('starts where the channel is, not where it began', () => {
    const channel = Channel.on()
    channel.answer(zeroCopied, 16)
    const tried = channel.snapshot.zeroCopyTriedBytes + EXTENT
    expect(channel.answer(allCopied).zeroCopyUntilBytes).toBe(tried + 256 * KIB)
  })
})

describe('zero-copy that is on', () => {
  it('is off at once when it is copied soon after a probe', () => {
    expect(Channel.on().answer(allCopied)).toMatchObject({ mode: 'off', highWaterBytes: 0 })
  })

  it('shrinks to the first mark when an eighth is copied, and no further', () => {
    const channel = Channel.on()
    channel.answer(dry)
    const partly = { ...zeroCopied, copiedBytes: 3 * MIB }
    const reason = 'copied by the kernel'
    expect(channel.answer(partly)).toMatchObject({ highWaterBytes: 1536 * KIB, reason })
    expect(channel.answer(partly)).toMatchObject({ highWaterBytes: 768 * KIB, reason })
    expect(channel.answer(partly, 9)).toMatchObject({ highWaterBytes: 768 * KIB, mode: 'on' })
    expect(channel.thresholds.decisions.steady).toBe(9)
  })

  it('shrinks below what was pinned when that was less than half of the mark', () => {
    const channel = Channel.on()
    channel.answer(dry, 3)
    expect(channel.thresholds.highWaterBytes).toBe(6 * MIB)
    const pinned = { ...zeroCopied, unreleasedRecentHighBytes: MIB }
    const refused = { ...pinned, refusedByMemlock: 1, refusedByOptmem: 1 }
    const lower = { highWaterBytes: 768 * KIB, reason: 'locked memory' }
    expect(channel.answer(refused)).toMatchObject(lower)
  })

  it('says that it is rarely full when less than a quarter was used', () => {
    const channel = Channel.on()
    channel.answer(dry)
    expect(channel.thresholds.highWaterBytes).toBe(3 * MIB)
    const little = { ...zeroCopied, unreleasedRecentHighBytes: 767 * KIB }
    expect(channel.answer(little, 31).highWaterBytes).toBe(3 * MIB)
    const lower = { highWaterBytes: 1536 * KIB, lowWaterBytes: 768 * KIB, reason: 'rarely full' }
    expect(channel.answer(little)).toMatchObject(lower)
  })

  it('collects few waits over several extents', () => {
    const one = { ...zeroCopied, waitsAtHighWater: 1, dryWaits: 1 }
    const channel = Channel.on()
    expect(channel.answer(one).highWaterBytes).toBe(768 * KIB)
    expect(channel.answer(one).highWaterBytes).toBe(3072 * KIB)
    const queued = Channel.on()
    queued.answer({ ...zeroCopied, waitsAtHighWater: 1, queuedWaits: 1 })
    expect(queued.answer(one).highWaterBytes).toBe(768 * KIB)
  })

  it.each([
    ['ignores dry waits below an eighth', { waitsAtHighWater: 9, dryWaits: 1 }, 768],
    ['doubles the first mark from an eighth on', { waitsAtHighWater: 8, dryWaits: 1 }, 1536],
    ['also just below seven eighths', { waitsAtHighWater: 8, dryWaits: 6 }, 1536],
    ['takes four times as much from there on', { waitsAtHighWater: 8, dryWaits: 7 }, 3072],
    [
      'leaves it where an eighth of the waits was the network’s or the receiver’s',
      { waitsAtHighWater: 8, dryWaits: 7, queuedWaits: 1 },
      768,
    ],
    ['does not mind fewer of these', { waitsAtHighWater: 9, dryWaits: 8, queuedWaits: 1 }, 3072],
  ])('%s', (_what, waits, highKib) => {
    expect(Channel.on().answer({ ...zeroCopied, ...waits }).highWaterBytes).toBe(highKib * KIB)
  })

  it('doubles any mark but the first', () => {
    const channel = Channel.on()
    channel.answer({ ...dry, dryWaits: 1 })
    expect(channel.answer(dry, 2).highWaterBytes).toBe(3072 * KIB)
  })

  it('goes back to where it came from when the first mark was too little', () => {
    const channel = Channel.on()
    channel.answer({ ...dry, dryWaits: 1 })
    expect(channel.answer(wet, 32)).toMatchObject({ highWaterBytes: 768 * KIB })
    expect(channel.answer(dry)).toMatchObject({ highWaterBytes: 1536 * KIB })
  })

  it('grows to the last page of its budget', () => {
    const channel = Channel.on(1001 * KIB)
    expect(channel.thresholds.highWaterBytes).toBe(768 * KIB)
    expect(channel.answer(dry).highWaterBytes).toBe(1000 * KIB)
    expect(channel.answer(dry, 9).highWaterBytes).toBe(1000 * KIB)
  })

  it('follows a budget that shrinks, and judges what it saw meanwhile afterwards', () => {
    const channel = Channel.on()
    channel.answer(dry, 2)
    channel.budgetBytes = 1000 * KIB
    const lower = { highWaterBytes: 1000 * KIB, lowWaterBytes: 500 * KIB, reason: 'budget changed' }
    expect(channel.answer(allCopied)).toMatchObject(lower)
    expect(channel.answer(plain)).toMatchObject({ mode: 'off', reason: 'copied by the kernel' })
    channel.budgetBytes = 0
    expect(channel.answer(plain, 100).mode).toBe('off')
  })

  it('is off when the budget holds nothing any more', () => {
    const channel = Channel.on()
    channel.budgetBytes = 1
    expect(channel.answer(zeroCopied)).toMatchObject({ mode: 'off', reason: 'locked memory' })
  })

  it('returns the very same thresholds when too little was answered', () => {
    const channel = Channel.on()
    const before = channel.thresholds
    const little = { zeroCopyTriedBytes: 100 * KIB, zeroCopyBytes: 100 * KIB }
    expect(channel.answer(little, 2)).toBe(before)
    expect(channel.answer(little)).not.toBe(before)
    expect(channel.thresholds).toMatchObject({ decisions: { steady: 1 } })
    expect(marksDiffer(before, channel.thresholds)).toBe(false)
  })
})

it('counters that run backwards for a moment count as standing still', () => {
  const channel = Channel.on()
  expect(channel.answer({ copiedBytes: -MIB, zeroCopyBytes: -MIB })).toMatchObject({ mode: 'on' })
})

it('every reason has a counter', () => {
  expect(Object.keys(startThresholds(UNLIMITED).decisions)).toEqual([...FLUSH_REASONS])
})

it('asserts that the budget is a number of bytes', () => {
  const { snapshot, thresholds } = new Channel()
  expect(() => adaptivePolicy(snapshot, thresholds, -1)).toThrow(/budgetBytes/)
  expect(() => adaptivePolicy(snapshot, thresholds, Number.NaN)).toThrow(/budgetBytes/)
})
