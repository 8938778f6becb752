// Ctrl-C in the middle of a comparison.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const DIST = process.env.BENCH_DIST ?? join(import.meta.dirname, '../../dist')

test('Ctrl-C ends the comparison and the children it started', async () => {
  const args = [join(DIST, 'bench/main.js'), 'ceiling', '--memory', '64MiB', '--pairs', '1000']
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
  } finally {
    bench.kill('SIGKILL')
  }
})
