// The program that README.md shows is the file of the examples, and it does what the text says.

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const root = dirname(dirname(import.meta.dirname))
const read = (path: string): string => readFileSync(join(root, path), 'utf8')

test("the README's program is examples/link/minimal.ts", () => {
  const blocks = [...read('README.md').matchAll(/^```(?:ts|js)\n([\s\S]*?)^```$/gm)]
  const [, ...code] = read('examples/link/minimal.ts').split(/^(?=import )/m)
  expect(blocks.map(([, block]) => block)).toEqual([
    code.join('').replace("'../../src/index.ts'", "'multifd'"),
  ])
})

test("the README's program migrates its guest", async () => {
  const loader = join(root, 'test/support/typescript-loader.mjs')
  const program = join(root, 'examples/link/minimal.ts')
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', loader, program])
  expect(stdout).toContain('loaded')
  expect(stdout).toMatch(/rounds: \d+,\s+downtimeMs: [\d.]+,\s+same: true/)
})
