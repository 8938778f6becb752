// The page of a migration, as text: what it says, that strangers' text stays text, and its size.

import { expect, test } from 'vitest'
import { migrationReport } from '../../src/report/migration-report.ts'
import { SampleList } from '../../src/report/sample-list.ts'
import { aRecord, aSample, dataOf, wordsOf } from './a-record.ts'

const BYTES_MAX = 150_000

test('the page of a migration has every figure, plot and table', () => {
  const page = migrationReport(aRecord())
  const words = wordsOf(page)
  for (const expected of [
    'completed',
    'Total time 290 ms',
    'Downtime 42.5 ms',
    'Throughput 931 MB/s',
    'CPU time per GB 0.500 s channel threads, both sides',
    'Copied by the kernel 75 % 50 % although zero-copy was tried',
    'Engine io-uring sends from registered memory',
    'channel 0',
    'last round 20.0 ms',
    'round 1 fits the downtime limit: stop',
    '6.12.0',
    '0123456789ab',
    '2026-01-02 03:04 UTC',
    'Throughput over time',
    'Memory to send, per round',
    'Sending against writing',
    'What the downtime consisted of',
    'What was decided, and when',
    'Environment',
  ]) {
    expect(words).toContain(expected)
  }
  const pictures = page.match(/<figure>.*?<\/figure>\s*<details>.*?<\/details>/gs) ?? []
  expect(pictures).toHaveLength(4)
  for (const picture of pictures) {
    expect(picture).toMatch(/<figcaption>[A-Z].{20,}<\/figcaption>/s)
    expect(picture).toMatch(/<svg [^>]*aria-hidden="true"/)
    expect(picture).toMatch(/<th scope="col">/)
  }
})

test('the page holds its data as JSON, without infinities', () => {
  const record = aRecord(1, { decisions: [{ elapsedMs: Number.POSITIVE_INFINITY, text: '' }] })
  expect(dataOf(migrationReport(record))).toMatchObject({
    outcome: { status: 'completed', totalTimeMs: 290 },
    rounds: [
      { round: 0, dirtyBytes: 256e6 },
      { round: 1, final: true },
    ],
    decisions: [{ elapsedMs: null }],
  })
})

test("strangers' text stays text wherever it stands", () => {
  const hostile = `"></script><script>alert(1)</script><img src=x onerror=alert(1)> & 'x'`
  const { outcome, environment } = aRecord()
  const series = { [hostile]: 1 }
  const page = migrationReport(
    aRecord(1, {
      title: hostile,
      lead: hostile,
      environment: { ...environment, cpu: hostile },
      samples: [100, 200].map((ms) => ({ ...aSample(ms), status: hostile, series })),
      decisions: [{ elapsedMs: 1, text: hostile }],
      outcome: { ...outcome, reason: hostile, engine: hostile, facts: { [hostile]: hostile } },
      channels: [{ idstr: hostile }],
    }),
  )
  expect(page.match(/<script/g)).toHaveLength(1)
  expect(page).not.toContain('<img')
  expect(page.match(/&lt;script&gt;/g)?.length).toBeGreaterThan(8)
  expect(dataOf(page)).toMatchObject({ title: hostile, channels: [{ idstr: hostile }] })
})

test('the page asks no server and runs nothing', () => {
  const page = migrationReport(aRecord())
  expect(page).not.toMatch(/https?:|\/\/\w|@import|url\(|src=|href=|<link|xmlns/i)
  expect(page).toContain(`content="default-src 'none'; style-src 'unsafe-inline'"`)
})

test('a migration of hours over 255 channels is a small page all the same', () => {
  const list = new SampleList()
  for (let i = 1; i <= 2_000; i++) list.add(aSample(i * 100, 255, 1e9 * (1 + Math.sin(i * i))))
  const rounds = Array.from({ length: 60 }, (_, round) => ({
    round,
    dirtyBytes: 1e9 / (round + 1),
    beganMs: round * 2_500,
    tookMs: 9999.123,
    dirtyBytesPerSecond: 12345678.9,
    final: false,
  }))
  const outcome = { ...aRecord().outcome, totalTimeMs: 200_000 }
  const channels = Array.from({ length: 255 }, (_, channelId) => ({ channelId, sentBytes: 1e9 }))
  const { samples } = list
  const decisions = Array.from({ length: 120 }, (_, i) => {
    return { elapsedMs: i * 1000, text: `channel ${i}: zero-copy off (copied by the kernel)` }
  })
  const page = migrationReport(
    aRecord(255, { samples, rounds, outcome, channels, decisions, roundsLeftOut: 7 }),
  )
  expect(wordsOf(page)).toContain('channel 0 to channel 31')
  expect(wordsOf(page)).toContain('7 rounds in the middle are left out')
  expect(page.length).toBeLessThan(BYTES_MAX)
  const data = dataOf(page).samples as { columns: string[]; rows: unknown[][] }
  expect(data.rows).toHaveLength(samples.length)
  expect(data.columns.at(-1)).toBe('channel 224 to channel 254')
})

test('what is not known has no card, and a failure says why', () => {
  const { downtimeParts: _parts, stoppedMs: _stopped, ...rest } = aRecord()
  const outcome = { status: 'failed', reason: 'the peer was silent for 10000 ms' }
  const page = migrationReport({ ...rest, samples: [], rounds: [], decisions: [], outcome })
  const words = wordsOf(page)
  expect(words).toContain('failed: the peer was silent for 10000 ms')
  expect(words).toContain('Environment')
  expect(page).not.toMatch(/<figure>|NaN|undefined|Infinity/)
})
