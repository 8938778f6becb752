// Where a report goes: refused at once, or there in the end.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { RunningReport } from '../../src/report/running-report.ts'

let scratch = ''
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-report-'))
})
afterEach(() => rmSync(scratch, { recursive: true, force: true }))

const subject = { title: 'A title', lead: 'L.', over: 'loopback' }
const unexpected = (sentence: string): never => {
  throw new Error(sentence)
}

test('a path that cannot be written is refused before anything begins', async () => {
  const nowhere = RunningReport.open(join(scratch, 'no', 'page.html'), subject, unexpected)
  await expect(nowhere).rejects.toThrow(RangeError)
  await expect(nowhere).rejects.toThrow(/page\.html cannot be written \(ENOENT\): expected a file/)
  await expect(RunningReport.open(scratch, subject, unexpected)).rejects.toThrow(/EISDIR/)
  expect(await RunningReport.open(undefined, subject, unexpected)).toBeUndefined()
})

test('what the file held is there until the report replaces it', async () => {
  const path = join(scratch, 'page.html')
  writeFileSync(path, 'x'.repeat(1_000_000))
  await using report = await RunningReport.open(path, subject, unexpected)
  expect(readFileSync(path, 'utf8')).toHaveLength(1_000_000)
  await report?.failed(new Error('it broke'), 'failed')
  const page = readFileSync(path, 'utf8')
  expect(page).toMatch(/^<!doctype html>[\s\S]*failed: it broke[\s\S]*<\/html>\n$/)
})

test('a report that cannot be written in the end harms nothing: it is a warning', async () => {
  const warnings: string[] = []
  const warn = (sentence: string): void => void warnings.push(sentence)
  await using report = await RunningReport.open('/dev/full', subject, warn)
  await report?.completed({ status: 'completed' })
  expect(warnings).toEqual([expect.stringMatching(/\/dev\/full could not be written: /)])
})
