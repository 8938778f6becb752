// Runs `npm run bench` from outside, as a child program, and reads the JSON that it ends with.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect } from 'vitest'

export const MIB = 2 ** 20
// The compiled tree; BENCH_DIST names another one.
const DIST = process.env.BENCH_DIST ?? join(import.meta.dirname, '../../dist')
const MAIN = join(DIST, 'bench/main.js')
/** Many processes, one after the other, on a machine that may be busy. */
export const TIMEOUT_MS = 180_000

interface Ended {
  code: number
  stdout: string
  stderr: string
}

export function bench(...args: string[]): Promise<Ended> {
  return benchWithin(process.env, ...args)
}

export async function benchWithin(env: NodeJS.ProcessEnv, ...args: string[]): Promise<Ended> {
  if (!existsSync(MAIN)) throw new Error(`${MAIN} is missing: run "npm run build:ts" first`)
  try {
    // Ended before the test is: then its last words are in the failure.
    const options = { timeout: TIMEOUT_MS - 10_000, maxBuffer: 64 * MIB, env }
    const ended = await promisify(execFile)(process.execPath, [MAIN, ...args], options)
    return { code: 0, ...ended }
  } catch (error) {
    const { code, stdout, stderr } = error as Ended
    return { code, stdout, stderr }
  }
}

export function report(...args: string[]) {
  return reportWithin(process.env, ...args)
}

export async function reportWithin(env: NodeJS.ProcessEnv, ...args: string[]) {
  const ended = await benchWithin(env, ...args, '--json')
  expect(ended.stderr).toMatch(/warm-up|1\/1/)
  expect(ended).toMatchObject({ code: 0 })
  const last = JSON.parse(ended.stdout.trim().split('\n').at(-1) ?? '')
  const parts = ['comparison', 'environment', 'results', 'ratios', 'skipped']
  expect(Object.keys(last)).toEqual(parts)
  expect(last.comparison).toBe(args[0])
  return last
}

export function expectRatio(ratio: unknown, turns: number): void {
  expect(ratio).toEqual({
    median: expect.any(Number),
    min: expect.any(Number),
    max: expect.any(Number),
    samples: Array(turns).fill(expect.any(Number)),
  })
}
