// The page of a comparison: contestants found by their shape, ratios with their spread.

import { expect, test } from 'vitest'
import { type BenchRecord, benchReport } from '../../src/report/bench-report.ts'
import { contestantsIn } from '../../src/report/bench-results.ts'
import { dataOf, ENVIRONMENT, wordsOf } from './a-record.ts'

const GB = 1e9
const turn = (seconds: number) => ({ ramBytes: GB, seconds, cpuSeconds: seconds / 2 })

const RECORD: BenchRecord = {
  comparison: 'ceiling',
  question: 'how close is it?',
  environment: { ...ENVIRONMENT, qemu: 'QEMU emulator 7.2' },
  results: {
    memoryBytes: GB,
    ours: [turn(0.5), turn(0.4), turn(0.25)],
    rig: { plain: [turn(1)], pinned: { medianBytes: 3 } },
    iperf3: [3e9],
  },
  ratios: { throughputVsCeiling: { samples: [0.9, 0.97, 0.95] } },
  skipped: [{ what: 'rig', reason: 'needs root' }],
  tables: [{ title: 'A table', columns: ['', 'GB/s'], rows: [['<ours>', '2.50']] }],
  notes: ['Memory was pre-faulted.'],
}

test('contestants are lists of turns, wherever they stand', () => {
  const ours = {
    name: 'ours',
    seconds: [0.5, 0.4, 0.25],
    bytesPerSecond: [2e9, 2.5e9, 4e9],
    cpuSecondsPerGb: [0.25, 0.2, 0.125],
  }
  const plain = { name: 'plain', seconds: [1], bytesPerSecond: [1e9], cpuSecondsPerGb: [0.5] }
  expect(contestantsIn(RECORD.results)).toEqual([
    { title: '', contestants: [ours] },
    { title: 'rig', contestants: [plain] },
  ])
})

test('turns that name no memory take that of the comparison, and CPU time of both sides', () => {
  const qemu = [{ seconds: 2, sourceCpuSeconds: 1, destinationCpuSeconds: 2 }]
  const paths = [{ path: 'lo', turns: { none: [{ seconds: 4 }] } }]
  const [field, path] = contestantsIn({ memoryBytes: 2 * GB, qemu, paths })
  expect(field?.contestants).toMatchObject([{ bytesPerSecond: [1e9], cpuSecondsPerGb: [1.5] }])
  expect(path).toMatchObject({ title: 'lo', contestants: [{ name: 'none' }] })
})

test('the page shows medians with their range, tables, notes and what was left out', () => {
  const page = benchReport(RECORD)
  const words = wordsOf(page)
  for (const expected of [
    'Benchmark: ceiling',
    'How close is it? Contestants alternate, 3 turns each',
    'throughput vs ceiling 0.950 0.900 to 0.970',
    'ours 2.50 2.00 4.00 3',
    'Throughput, rig',
    'A table',
    '&lt;ours&gt; 2.50',
    'Memory was pre-faulted.',
    'Left out: rig (needs root).',
    'QEMU emulator 7.2',
    'too few to prove anything',
  ]) {
    expect(words).toContain(expected)
  }
  expect(page).not.toMatch(/https?:|NaN|undefined|xmlns/)
  expect(dataOf(page)).toMatchObject({ comparison: 'ceiling', results: RECORD.results })
})

test('what the command line prints as JSON is enough', () => {
  const { comparison, environment, results, ratios, skipped } = RECORD
  const page = benchReport({ comparison, environment, results, ratios, skipped })
  expect(wordsOf(page)).toContain('throughput vs ceiling')
})

test('counters of many turns stay out of the page, and it says so', () => {
  const channel = { sentBytes: 123456789, copiedBytes: 123456789, engine: 'sendmsg' }
  const channels = Array(16).fill(channel)
  const many = Array(60).fill({ ...turn(1 / 3), source: { migration: { channels } } })
  const page = benchReport({ ...RECORD, results: { memoryBytes: GB, ours: many } })
  expect(page.length).toBeLessThan(150_000)
  const { results } = dataOf(page) as { results: Record<string, unknown[]> }
  expect(results.ours?.[0]).toEqual({ ramBytes: GB, seconds: 0.333333, cpuSeconds: 0.166667 })
  expect(results.leftOut).toMatch(/--json/)
})

test('a comparison that measured nothing has a page', () => {
  const page = benchReport({ ...RECORD, results: {}, ratios: {} })
  expect(wordsOf(page)).toContain('Left out: rig')
  expect(page).not.toMatch(/NaN|Infinity/)
})
