// `npm run bench` from outside, at sizes that take seconds. These are no measurements: they only
// show that every comparison runs to its end and keeps the shape of its report.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'

const MIB = 2 ** 20
// The compiled tree; BENCH_DIST names another one.
const DIST = process.env.BENCH_DIST ?? join(import.meta.dirname, '../../dist')
const MAIN = join(DIST, 'bench/main.js')

interface Ended {
  code: number
  stdout: string
  stderr: string
}

async function bench(...args: string[]): Promise<Ended> {
  if (!existsSync(MAIN)) throw new Error(`${MAIN} is missing: run "npm run build:ts" first`)
  try {
    // Ended before the test is: then its last words are in the failure.
    const options = { timeout: 50_000 }
    const ended = await promisify(execFile)(process.execPath, [MAIN, ...args], options)
    return { code: 0, ...ended }
  } catch (error) {
    const { code, stdout, stderr } = error as Ended
    return { code, stdout, stderr }
  }
}

async function report(...args: string[]) {
  const ended = await bench(...args, '--json')
  expect(ended.stderr).toMatch(/warm-up/)
  expect(ended).toMatchObject({ code: 0 })
  const last = JSON.parse(ended.stdout.trim().split('\n').at(-1) ?? '')
  expect(Object.keys(last)).toEqual(['comparison', 'environment', 'results', 'ratios'])
  expect(last.comparison).toBe(args[0])
  return last
}

function expectRatio(ratio: unknown, turns: number): void {
  expect(ratio).toEqual({
    median: expect.any(Number),
    min: expect.any(Number),
    max: expect.any(Number),
    samples: Array(turns).fill(expect.any(Number)),
  })
}

describe('comparisons', () => {
  test('ceiling compares a migration with the plain C++ loop', async () => {
    const { results, ratios } = await report('ceiling', '--smoke', '--send-size', '512K')
    expectRatio(ratios.throughputVsCeiling, 2)
    expectRatio(ratios.cpuVsCeiling, 2)
    expectRatio(ratios.jsThreadShare, 2)
    expect(results).toMatchObject({ memoryBytes: 64 * MIB, sendSizeBytes: 512 * 1024 })
    expect(results.ours).toHaveLength(2)
    // Every page was sent, and none twice: the bytes on the wire are RAM and a little more.
    for (const { source } of results.ours) {
      expect(source.migration.transferredBytes).toBeGreaterThanOrEqual(64 * MIB)
      expect(source.migration.transferredBytes).toBeLessThan(65 * MIB)
    }
  })

  test('sparse compares a guest full of holes with a small one', async () => {
    const { results, ratios } = await report('sparse', '--smoke')
    expectRatio(ratios.sparseVsDense, 2)
    expect(results.destinationResidentBytes).toBeGreaterThanOrEqual(64 * MIB)
    expect(results.destinationResidentBytes).toBeLessThan(66 * MIB)
    expect(results.sourceResidentBytes).toBeLessThan(66 * MIB)
    for (const run of results.sparse) expect(run.ramIdentical).toBe(true)
  })
})

describe('refusals', () => {
  test.each([
    [['fastest'], /unknown comparison 'fastest'\nComparisons: ceiling, sparse/],
    [[], /no comparison was named\nComparisons: ceiling, sparse/],
    [['ceiling', '--speed', '3'], /unknown option '--speed'\nOptions of ceiling: .*--memory/],
    [['sparse', '--memory', '4G'], /unknown option '--memory'\nOptions of sparse: .*--populated/],
    [['ceiling', '--memory', '3'], /'--memory <size>' argument '3' is invalid.*4096/],
    [['ceiling', '--memory', '8GiB'], /--memory is 8 GiB, expected at most 4 GiB/],
    [['sparse', '--populated', '3MiB'], /--populated is 3 MiB, expected a multiple of 2 MiB/],
  ])('%j', async (args, sentence) => {
    const ended = await bench(...args)
    expect(ended.stderr).toMatch(sentence)
    expect(ended).toMatchObject({ code: 2, stdout: '' })
  })
})
