// What people and machines read at the end of a comparison.
import { expect, test } from 'vitest'
import { jsonLine, tableLines, textReport } from '../../bench/report.ts'
import { readEnvironment } from '../../src/report/environment.ts'

const environment = readEnvironment('loopback')
const ratios = { aVsB: { median: 0.9, min: 0.85, max: 1.1, samples: [0.85, 0.9, 1.1] } }

test('the environment names what moves a figure', () => {
  expect(environment).toMatchObject({ interface: 'loopback', node: process.version })
  expect(environment.cores).toBeGreaterThan(0)
  for (const value of Object.values(environment)) expect(value).not.toBe('')
})

test('the JSON report is one line with its five parts', () => {
  const skipped = [{ what: 'rig', reason: 'not root' }]
  const line = jsonLine({ comparison: 'a', environment, results: { turns: 3 }, ratios, skipped })
  expect(line).not.toContain('\n')
  const parts = ['comparison', 'environment', 'results', 'ratios', 'skipped']
  expect(Object.keys(JSON.parse(line))).toEqual(parts)
  expect(JSON.parse(line)).toMatchObject({ ratios, skipped })
})

test('the readable report shows the spread of every ratio', () => {
  const findings = { results: {}, ratios, tables: [], notes: ['measured at home'] }
  const text = textReport('a', 'is it fast?', environment, findings)
  expect(text).toContain('a: is it fast?')
  expect(text).toMatch(/aVsB\s+0\.900\s+0\.850\s+1\.100\s+3/)
  expect(text).toContain('- measured at home')
})

test('the readable report names what was left out, and why', () => {
  const skipped = [{ what: 'rig', reason: 'the veth rig needs root' }]
  const findings = { results: {}, ratios, tables: [], notes: [], skipped }
  const text = textReport('a', 'is it fast?', environment, findings)
  expect(text).toContain('- Left out: rig (the veth rig needs root).')
})

test('a table keeps its columns aligned', () => {
  const rows = [
    ['a', '1.25'],
    ['longer', '10.50'],
  ]
  expect(tableLines({ title: 'T', columns: ['', 'GB/s'], rows })).toEqual([
    'T',
    '           GB/s',
    '  ------  -----',
    '  a        1.25',
    '  longer  10.50',
  ])
})
