// A report in a real browser: Debian's chromium, headless. It draws, at both widths and in both
// themes, and complains of nothing.

import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, type TestContext, test } from 'vitest'
import { benchReport } from '../../src/report/bench-report.ts'
import { migrationReport } from '../../src/report/migration-report.ts'
import { skipUnless } from '../support/rig.ts'
import { aRecord, ENVIRONMENT } from './a-record.ts'

const CHROMIUM = '/usr/bin/chromium'
const FLAGS = [
  ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
  ...['--hide-scrollbars', '--enable-logging=stderr', '--dump-dom'],
]
const DARK = '--blink-settings=preferredColorScheme=0'

let scratch = ''
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-browser-'))
})
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

/** Skips where there is none; in CI, which installs one, that is a failure. */
function needsChromium(context: TestContext): void {
  if (existsSync(CHROMIUM)) return
  const reason = `${CHROMIUM} is missing: apt-get install chromium`
  if (process.env.CI === 'true') throw new Error(reason)
  skipUnless(context, reason)
}

let opened = 0

interface Look {
  /** The document after it was laid out. */
  dom: string
  picture: Buffer
  /** Lines of the console: errors, refused loads. */
  complaints: string[]
}

async function look(page: string, widthPx: number, ...more: string[]): Promise<Look> {
  const folder = join(scratch, String(opened++))
  mkdirSync(folder)
  const file = join(folder, 'page.html')
  const picture = join(folder, 'page.png')
  writeFileSync(file, page)
  const places = [`--user-data-dir=${join(folder, 'profile')}`, `--screenshot=${picture}`]
  const args = [...FLAGS, ...places, `--window-size=${widthPx},2400`, ...more]
  const { stdout, stderr } = await promisify(execFile)(
    CHROMIUM,
    [...args, pathToFileURL(file).href],
    { timeout: 50_000, maxBuffer: 2 ** 24 },
  )
  const complaints = stderr.split('\n').filter((line) => line.includes('CONSOLE'))
  return { dom: stdout, picture: readFileSync(picture), complaints }
}

/** A copy that may run a script, which writes down what the layout came to. */
function measured(page: string): string {
  const script = `<script>
    const style = (name) => getComputedStyle(document.querySelector(name))
    const { scrollWidth, clientWidth } = document.documentElement
    const plots = [...document.querySelectorAll('svg')].filter((svg) =>
      svg.getBoundingClientRect().width > 100 && svg.querySelector('text') !== null)
    document.title = JSON.stringify({
      overflow: scrollWidth - clientWidth, plots: plots.length,
      wide: style('.wide').display, narrow: style('.narrow').display,
      ink: style('body').color, paper: style('body').backgroundColor,
      column: style('section.half svg rect').fill,
    })</script>`
  return page.replace(/<meta http-equiv[^>]*>/, '').replace('</body>', `${script}</body>`)
}

function measuresOf({ dom }: Look): Record<string, unknown> {
  const title = /<title>(.*?)<\/title>/s.exec(dom)?.[1] ?? ''
  return JSON.parse(title.replaceAll('&quot;', '"'))
}

test('a report draws without a complaint, in light and dark, wide and narrow', async (context) => {
  needsChromium(context)
  const page = migrationReport(aRecord(4))
  const plain = await look(page, 1200)
  expect(plain.complaints).toEqual([])
  // Four plots, two of them for two widths.
  expect(plain.dom.match(/<svg /g)).toHaveLength(6)
  // A blank page of this size takes a tenth of that.
  expect(plain.picture.length).toBeGreaterThan(60_000)

  const light = measuresOf(await look(measured(page), 1200))
  const plots = 4
  expect(light).toMatchObject({ overflow: 0, plots, wide: 'block', narrow: 'none' })
  const phone = measuresOf(await look(measured(page), 390, DARK))
  expect(phone).toMatchObject({ overflow: 0, plots, wide: 'none', narrow: 'block' })
  // The plots' colours follow the theme, too.
  for (const name of ['ink', 'paper', 'column']) expect(phone[name], name).not.toBe(light[name])
})

test('the page of a comparison draws, and hostile names run nothing', async (context) => {
  needsChromium(context)
  const name = '<img src=x onerror=alert(1)><script>alert(1)</script>'
  const page = benchReport({
    comparison: name,
    environment: ENVIRONMENT,
    results: { memoryBytes: 1e9, [name]: [{ seconds: 1, cpuSeconds: 1 }], ours: [{ seconds: 2 }] },
    ratios: { [name]: { samples: [0.5, 1, 2] } },
    skipped: [{ what: name, reason: name }],
  })
  const { complaints, dom } = await look(page, 800)
  expect(complaints).toEqual([])
  expect(dom.match(/<svg /g)).toHaveLength(4)
  // Only the data, which is text to a browser, may spell it out.
  expect(dom.slice(0, dom.indexOf('id="data"'))).not.toMatch(/<img|<script>/)
})
