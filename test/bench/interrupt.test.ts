// Ctrl-C in the middle of a comparison.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { qemuOrSkip } from '../support/qemu/qemu-or-skip.ts'

const DIST = process.env.BENCH_DIST ?? join(import.meta.dirname, '../../dist')

// The children of flush are stopped at times, and run in namespaces of their own where it may.
const NAMES = ['ceiling', 'flush', 'qemu'] as const
test.for(NAMES)('Ctrl-C ends %s and what it started', async (name, context) => {
  if (name === 'qemu') await qemuOrSkip(context)
  const args = [join(DIST, 'bench/main.js'), name, '--memory', '64MiB', '--pairs', '1000']
  const bench = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  try {
    const ended = once(bench, 'close')
    await once(bench.stderr, 'data') // a first transfer is over, the next one runs or starts
    const children = readFileSync(`/proc/${bench.pid}/task/${bench.pid}/children`, 'utf8')
    bench.kill('SIGINT')
    expect(await ended).toEqual([130, null])
    for (const pid of children.trim().split(/\s+/).filter(Boolean)) {
      expect(existsSync(`/proc/${pid}`), `child ${pid} is gone`).toBe(false)
    }
    const namespaces = existsSync('/run/netns') ? readdirSync('/run/netns') : []
    expect(namespaces.filter((space) => space.startsWith(`multifd-${bench.pid}-`))).toEqual([])
  } finally {
    bench.kill('SIGKILL')
  }
})
