// The printed diagnosis: columns, colours, the summary, and one JSON object.

import { describe, expect, it } from 'vitest'
import { judge } from '../../../src/cli/doctor/judge.ts'
import { jsonReport, textReport } from '../../../src/cli/doctor/report.ts'
import { GOOD_MACHINE, path } from './made-up-facts.ts'

const diagnosis = judge({ ...GOOD_MACHINE, lockedMemoryBytes: 8 * 2 ** 20 })

describe('the text', () => {
  const text = textReport(diagnosis, { colour: false })

  it('has status, title and value in columns, and ends with the summary', () => {
    const rows = text.split('\n').filter((line) => /^(ok|warning|missing)/.test(line))
    expect(rows).toHaveLength(diagnosis.findings.length)
    const valueAt = rows.map((row) => /^.{9}\S.*? {2,}(?=\S)/.exec(row)?.[0].length)
    expect(new Set(valueAt).size).toBe(1)
    expect(text).toMatch(/^warning {2}locked memory +8 MiB\n( {9}\S.*\n)+ {9}fix: ulimit -l/m)
    expect(text).toContain('\n\n17 ok, 1 warning, 0 missing.\nA migration from here will ')
  })

  it('keeps to 100 columns, or to those of the terminal', () => {
    const longest = (lines: string): number => Math.max(...lines.split('\n').map((l) => l.length))
    expect(longest(text)).toBeLessThanOrEqual(100)
    expect(longest(textReport(diagnosis, { colour: false, columns: 60 }))).toBeLessThanOrEqual(60)
  })

  it('has colours only when asked for, which change nothing else', () => {
    const start = String.fromCharCode(27)
    const coloured = textReport(diagnosis, { colour: true })
    expect(text).not.toContain(start)
    expect(coloured).toContain(`${start}[33mwarning`)
    expect(coloured.replaceAll(new RegExp(`${start}\\[\\d+m`, 'g'), '')).toBe(text)
  })
})

it('the JSON is one line that holds all findings; no limit is null', () => {
  const line = jsonReport(judge({ ...GOOD_MACHINE, paths: [path('lo', 'copied')] }))
  expect(line.indexOf('\n')).toBe(line.length - 1)
  const read = JSON.parse(line)
  expect(read).toMatchObject({ command: 'doctor', canMigrate: true, summary: expect.any(String) })
  const limit = read.findings.find(({ id }: { id: string }) => id === 'locked-memory')
  expect(limit).toEqual({
    id: 'locked-memory',
    title: 'locked memory',
    status: 'ok',
    value: 'no limit',
    details: { limitBytes: null },
    meaning: expect.any(String),
  })
})
