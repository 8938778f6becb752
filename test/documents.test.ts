// The documents are held to the code: links, scripts, options and the tests they name must exist.
// Reads files of the repository only.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { readStartOptions } from '../examples/v86/start-options.ts'
import { GuestMemory } from '../src/index.ts'
import { checkDestinationOptions } from '../src/migrate/destination-options.ts'
import { checkSourceOptions } from '../src/migrate/source-options.ts'

const root = dirname(import.meta.dirname)
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const DOCUMENTS = [root, join(root, 'docs')].flatMap((folder) =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name).slice(root.length + 1)),
)
const withoutCode = (text: string): string => text.replace(/^```[\s\S]*?^```/gm, '')

/** Rows of every table under a heading or line that starts with `start`, up to the next table. */
function tableAfter(text: string, start: string): string[][] {
  const at = text.indexOf(start)
  expect(at, `"${start}" is there`).toBeGreaterThanOrEqual(0)
  const table = /(?:^\|.*\|\n)+/m.exec(text.slice(at))?.[0] ?? ''
  return cellsOf(table).slice(2)
}

function cellsOf(table: string): string[][] {
  const rows = table.split('\n').filter((line) => line.startsWith('|'))
  return rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )
}

/** GitHub's anchor of a heading. */
function anchorOf(heading: string): string {
  const words = heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '')
  return words.replaceAll(' ', '-')
}

describe('documents', () => {
  it.each(DOCUMENTS)('%s: every relative link leads somewhere', (document) => {
    const broken: string[] = []
    for (const [, target = ''] of withoutCode(read(document)).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [path = '', anchor] = target.split('#')
      const file = path === '' ? document : join(dirname(document), path)
      const found = existsSync(join(root, file))
      const headings = !found || anchor === undefined ? [] : read(file).matchAll(/^#+ (.*)$/gm)
      const anchors = [...headings].map(([, heading = '']) => anchorOf(heading))
      if (!found || (anchor !== undefined && !anchors.includes(anchor))) broken.push(target)
    }
    expect(broken).toEqual([])
  })

  it.each(DOCUMENTS)('%s: every npm script it names exists', (document) => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    const text = read(document)
    const named = [...text.matchAll(/\bnpm run (?:--silent )?([a-z][\w:-]*)/g)].map(([, n]) => n)
    const short = [...text.matchAll(/\bnpm (start|test)\b/g)].map(([, n]) => n)
    for (const name of [...named, ...short]) expect(scripts).toHaveProperty([name as string])
  })

  it('CONTRIBUTING.md names every script that a person runs', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    const text = read('CONTRIBUTING.md')
    for (const name of Object.keys(scripts).filter(
      (name) => !['prepare', 'install'].includes(name),
    )) {
      const wanted = ['start', 'test'].includes(name) ? `npm ${name}` : `npm run ${name}`
      expect(text).toContain(`\`${wanted}\``)
    }
  })
})

describe('the options in README.md', () => {
  const readme = read('README.md')
  const sides = [
    {
      start: '`new MigrationSource({ ... })`:',
      file: 'src/migrate/source-options.ts',
      type: 'MigrationSourceOptions',
      defaults: (memory: GuestMemory): object =>
        checkSourceOptions({ memory, vmm: { stop: () => {}, resume: () => {} } }),
    },
    {
      start: '`MigrationDestination.listen(uri, { ... })`;',
      file: 'src/migrate/destination-options.ts',
      type: 'MigrationDestinationOptions',
      defaults: (memory: GuestMemory): object => checkDestinationOptions({ memory }),
    },
  ]
  it.each(sides)('are those of $type', ({ start, file, type }) => {
    const body = new RegExp(`export interface ${type} \\{([\\s\\S]*?)^\\}`, 'm').exec(
      read(file),
    )?.[1]
    const declared = [...(body ?? '').matchAll(/^ {2}(\w+)\??:/gm)].map(([, name]) => name)
    const listed = tableAfter(readme, start).map(([name]) => name?.replaceAll('`', ''))
    expect(declared.length).toBeGreaterThan(0)
    expect(listed).toEqual(declared)
  })

  it.each(sides)('have the defaults of $type', async ({ start, defaults }) => {
    await using memory = GuestMemory.allocate('ram', 4096)
    const settings = defaults(memory) as Record<string, unknown>
    let compared = 0
    for (const [name = '', , value = ''] of tableAfter(readme, start)) {
      const setting = settings[name.replaceAll('`', '')]
      if (!['string', 'number', 'boolean'].includes(typeof setting)) continue
      expect(value, name).toBe(`\`${setting}\``)
      compared += 1
    }
    expect(compared).toBeGreaterThan(3)
  })

  it('of npm start are those that it takes', () => {
    const source = read('examples/v86/start-options.ts')
    const declared = [...source.matchAll(/'(--[a-z-]+)[ ']/g)].map(([, name]) => name)
    const paragraph = /`npm start -- --help` lists the options:([\s\S]*?)\n\n/.exec(readme)?.[1]
    const listed = [...(paragraph ?? '').matchAll(/`(--[a-z-]+)`/g)].map(([, name]) => name)
    expect(declared.length).toBeGreaterThan(0)
    expect(new Set(listed)).toEqual(new Set(declared))
  })
})

it('what README.md shows of npm start is a run with its defaults', () => {
  const plan = readStartOptions([])
  if (!plan.ok) throw new Error('npm start without options is refused')
  const { memoryMib, workingSetMib, rate, channels } = plan.options
  expect(read('README.md')).toContain(
    `guest with ${memoryMib} MiB, rewriting ${workingSetMib} MiB at ${rate} pages/s; ${channels} channels`,
  )
})

describe('SPECIFICATION.md', () => {
  const rows = cellsOf(read('SPECIFICATION.md')).filter(
    ([first = '']) => !/^-+$/.test(first) && !['row', 'rule', 'subject'].includes(first),
  )

  it('says for each promise what holds it, or that it is pending', () => {
    expect(rows.length).toBeGreaterThan(50)
    const scripts = Object.keys(
      (JSON.parse(read('package.json')) as { scripts: Record<string, string> }).scripts,
    )
    for (const [row = '', promise = '', holds = ''] of rows) {
      const named = [...holds.matchAll(/`(test\/[\w./-]+)` "/g)].length
      const script = /`npm run ([\w:-]+)/.exec(holds)?.[1]
      const held = named > 0 || (script !== undefined && scripts.includes(script))
      expect(held || holds.includes('pending'), `${row} ${promise}`).toBe(true)
    }
  })

  it('names tests that exist', () => {
    const missing: string[] = []
    let checked = 0
    for (const [, , holds = ''] of rows) {
      for (const [, path = '', names = ''] of holds.matchAll(/`(test\/[^`]+)`((?:,? "[^"]+")*)/g)) {
        const text = existsSync(join(root, path)) ? read(path) : ''
        for (const [, name = ''] of names.matchAll(/"([^"]+)"/g)) {
          checked += 1
          if (!namesATest(text, name)) missing.push(`${path} "${name}"`)
        }
        if (text === '') missing.push(path)
      }
    }
    expect(checked).toBeGreaterThan(50)
    expect(missing).toEqual([])
  })

  it('names comparisons that exist', () => {
    const known = readdirSync(join(root, 'bench/comparisons')).map((name) => name.slice(0, -3))
    const named = [...read('SPECIFICATION.md').matchAll(/npm run bench -- ([\w-]+)/g)]
    expect(named.length).toBeGreaterThan(0)
    for (const [, name = ''] of named) expect(known).toContain(name)
  })
})

/** Whether one string of the file is the name; '…' stands for what varies in it. */
function namesATest(text: string, name: string): boolean {
  const parts = name.split('…').map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  return new RegExp(`(['"\`])${parts.join('[^\\n]*?')}\\1`).test(text)
}
