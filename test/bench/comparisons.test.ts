// `npm run bench` from outside, at sizes that take seconds. These are no measurements: they only
// show that every comparison runs to its end and keeps the shape of its report.
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { ScratchFolder } from '../../bench/qemu/scratch-folder.ts'
import { Rig } from '../../bench/rig.ts'
import { qemuOrSkip } from '../support/qemu/qemu-or-skip.ts'
import {
  bench,
  benchWithin,
  expectRatio,
  MIB,
  report,
  reportWithin,
  TIMEOUT_MS,
} from './run-bench.ts'

vi.setConfig({ testTimeout: TIMEOUT_MS })

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
    const page = join(tmpdir(), `multifd-sparse-${process.pid}.html`)
    onTestFinished(() => rmSync(page, { force: true }))
    const { results, ratios } = await report('sparse', '--smoke', '--report', page)
    expect(readFileSync(page, 'utf8')).toMatch(/Benchmark: sparse[\s\S]*sparse vs dense[\s\S]*<svg/)
    expectRatio(ratios.sparseVsDense, 2)
    expect(results.destinationResidentBytes).toBeGreaterThanOrEqual(64 * MIB)
    expect(results.destinationResidentBytes).toBeLessThan(66 * MIB)
    expect(results.sourceResidentBytes).toBeLessThan(66 * MIB)
    for (const run of results.sparse) expect(run.ramIdentical).toBe(true)
  })
})

// What the rig halves of these comparisons need is asked for once; they say themselves why not.
const noRig = await Rig.unavailable()
// A machine without any program beside Node, whoever runs this: no rig, and no failure in CI.
const WITHOUT_PROGRAMS = { ...process.env, PATH: '', CI: '' }

describe('zero-copy and engines', () => {
  test('zerocopy compares auto with off on loopback', async () => {
    const found = await reportWithin(WITHOUT_PROGRAMS, 'zerocopy', '--smoke')
    const { results, ratios, skipped } = found
    for (const name of ['autoVsOffLo', 'autoVsOffLoSendmsg', 'autoVsOffLoIoUring']) {
      expectRatio(ratios[name], 1)
    }
    for (const { source } of [...results.lo.sendmsgAuto, ...results.lo.sendmsgOff]) {
      expect(source.migration).toMatchObject({ engine: 'sendmsg', normalPages: 16384 })
    }
    expect(skipped).toEqual([{ what: 'rig', reason: expect.stringContaining('the veth rig') }])
    expect(ratios).not.toHaveProperty('autoVsOffRig')
  })

  test.skipIf(noRig !== undefined)('zerocopy compares auto with off over the rig', async () => {
    const { results, ratios, skipped } = await report('zerocopy', '--smoke', '--path', 'rig')
    for (const name of ['autoVsOffRig', 'autoVsOffRigSenderCpu', 'zeroCopyShareRig']) {
      expectRatio(ratios[name], 1)
    }
    expect(skipped).toEqual([{ what: 'lo', reason: 'not asked for: --path rig' }])
    const [forced] = results.rig.on
    for (const { zeroCopyBytes, copiedBytes } of forced.source.migration.channels) {
      expect(zeroCopyBytes).toBeGreaterThan(16 * MIB)
      expect(copiedBytes).toBe(0)
    }
  })

  test('engines compares the default choice with every combination', async () => {
    const { results, ratios, skipped } = await report('engines', '--smoke')
    expectRatio(ratios.autoVsBest, 1)
    for (const other of ['SendmsgOff', 'SendmsgOn', 'IoUringOff', 'IoUringOn', 'Splice']) {
      expectRatio(ratios[`autoVs${other}Lo`], 1)
      if (noRig === undefined) expectRatio(ratios[`autoVs${other}RigSenderCpu`], 1)
    }
    expect(results.lo.chosen).toBe('splice splice')
    expect(results.lo.chosenBecause).toMatch(/\w/)
    expect(skipped).toEqual(noRig === undefined ? [] : [{ what: 'rig', reason: noRig }])
  })

  test('flush compares marks with a slow receiver, and over slow links', async () => {
    const { results, ratios, skipped } = await report('flush', '--smoke')
    expectRatio(ratios.adaptiveVsBestThroughput, 1)
    const scenarios =
      noRig === undefined ? ['slowReceiver', 'link1Gbit', 'link5Gbit'] : ['slowReceiver']
    for (const scenario of scenarios) {
      const { pinned, fixed1MiB } = results[scenario]
      expect(Object.keys(pinned)).toHaveLength(6)
      // Two channels, each held to its mark.
      expect(pinned.fixed1MiB.largestBytes).toBeGreaterThan(0)
      expect(pinned.fixed1MiB.largestBytes).toBeLessThanOrEqual(2 * MIB)
      expect(fixed1MiB).toHaveLength(1)
    }
    const [slow] = results.slowReceiver.adaptive
    expect(slow.destinationRunningShare).toBeLessThan(1)
    expect(skipped).toHaveLength(noRig === undefined ? 0 : 1)
  })
})

describe('qemu', () => {
  test('compares our two ends, and one of them with a QEMU, with QEMU to QEMU', async (context) => {
    const { version } = await qemuOrSkip(context)
    const folders = [new ScratchFolder('/dev/shm'), new ScratchFolder('/var/tmp')]
    onTestFinished(() => {
      for (const folder of folders) folder.remove()
    })
    const [tmpfs = '', disk = ''] = folders.map(({ path }) => path)
    const found = await report('qemu', '--smoke', '--tmpfs', tmpfs, '--disk', disk)
    const { environment, results, ratios, skipped } = found
    expect(environment.qemu).toBe(version)
    for (const name of ['throughputVsQemu', 'cpuVsQemu']) expectRatio(ratios[name], 1)
    const left = skipped.map(({ what }: { what: string }) => what)
    if (!left.includes('snapshots in a tmpfs')) {
      for (const name of ['receive', 'receiveHashed', 'send', 'sendUnverified']) {
        expectRatio(ratios[`${name}VsQemu`], 1)
      }
      const [{ storing, hashing }] = results.receive
      expect(Math.min(storing.cpuSeconds, hashing.cpuSeconds)).toBeGreaterThan(0)
      const [{ seconds, sending }] = results.send
      expect(sending.seconds).toBeLessThan(seconds)
    }
    if (!left.includes('snapshots on a disk')) expectRatio(ratios.receiveDiskVsQemu, 1)
    for (const run of [...results.qemu, ...results.receive, ...results.send]) {
      expect(run.sourceCpuSeconds).toBeGreaterThanOrEqual(0)
      expect(run.destinationCpuSeconds).toBeGreaterThanOrEqual(0)
    }
    expect(folders.flatMap(({ path }) => readdirSync(path))).toEqual([])
  })

  test('without a QEMU says what is missing', async () => {
    const env = { ...process.env, QEMU_BINARY: '/nowhere/qemu' }
    const { code, stdout } = await benchWithin(env, 'qemu', '--smoke', '--json')
    expect(code).toBe(0)
    const { ratios, skipped } = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
    expect(ratios).toEqual({})
    const reason = expect.stringMatching(/qemu --version failed.*QEMU_BINARY/)
    expect(skipped).toEqual([{ what: 'everything', reason }])
    expect(stdout).toMatch(/Left out: everything \(\/nowhere\/qemu --version failed/)
  })
})

describe('refusals', () => {
  test.each([
    [['fastest'], /unknown comparison 'fastest'\nComparisons: ceiling, sparse.*, all/],
    [['all', '--memory', '1GiB'], /unknown option '--memory'\nOptions of all: --json, --smoke/],
    [
      ['scaling', '--memory', '1GiB'],
      /unknown option '--memory'[\s\S]*\nOptions of scaling: .*--pairs/,
    ],
    [['ceiling', '--speed', '3'], /unknown option '--speed'\nOptions of ceiling: .*--memory/],
    [['sparse', '--report', '/no/page.html'], /\/no\/page\.html cannot be written \(ENOENT\)/],
    [
      ['sparse', '--memory', '4G'],
      /unknown option '--memory'\n(.*\n)?Options of sparse: .*--populated/,
    ],
    [['ceiling', '--memory', '3'], /'--memory <size>' argument '3' is invalid.*4096/],
    [
      ['zerocopy', '--memory', '8GiB'],
      /'--memory <size>' argument '8GiB' is invalid.*at most 4 GiB/,
    ],
    [['engines', '--path', 'wire'], /'--path <name>' argument 'wire' is invalid.*lo, rig/],
    [
      ['flush', '--engine', 'auto'],
      /'--engine <name>' argument 'auto' is invalid.*sendmsg, io-uring/,
    ],
    [['qemu', '--memory', '8GiB'], /'--memory <size>' argument '8GiB' is invalid.*at most 4 GiB/],
    [['ceiling', '--memory', '8GiB'], /--memory is 8 GiB, expected at most 4 GiB/],
    [['sparse', '--populated', '3MiB'], /--populated is 3 MiB, expected a multiple of 2 MiB/],
  ])('%j', async (args, sentence) => {
    const ended = await bench(...args)
    expect(ended.stderr).toMatch(sentence)
    expect(ended).toMatchObject({ code: 2, stdout: '' })
  })
})
