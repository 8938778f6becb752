// `npm start` from outside: the compiled example as a process, its last line, its exit code, and
// what it leaves behind. Waits for what the example prints, never for time.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { Verdict } from '../../examples/v86/verdict.ts'

const sources = fileURLToPath(new URL('../../examples/v86/', import.meta.url))
const compiled = fileURLToPath(new URL('../../dist/examples/v86/', import.meta.url))

beforeAll(() => {
  for (const name of readdirSync(sources).filter((file) => file.endsWith('.ts'))) {
    const source = join(sources, name)
    const output = join(compiled, name.replace(/ts$/, 'js'))
    if (existsSync(output) && statSync(output).mtimeMs >= statSync(source).mtimeMs) continue
    throw new Error(`${output} is missing or older than its source: run "npm run build:ts" first`)
  }
})

class Started {
  readonly #child: ChildProcess
  stdout = ''
  stderr = ''
  readonly #closed: Promise<unknown[]>
  #grown: () => void = () => {}

  constructor(args: readonly string[]) {
    this.#child = spawn(process.execPath, [join(compiled, 'main.js'), '--memory', '64', ...args])
    this.#closed = once(this.#child, 'close')
    for (const name of ['stdout', 'stderr'] as const) {
      this.#child[name]?.setEncoding('utf8').on('data', (text: string) => {
        this[name] += text
        this.#grown()
      })
    }
    this.#child.on('close', () => this.#grown())
    onTestFinished(() => {
      this.#child.kill('SIGKILL')
    })
  }

  /**
   * The first match of `pattern` in what it shows: stderr, as stdout belongs to the JSON object.
   */
  async shows(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.stderr)
      if (found !== null) return found
      if (this.#child.exitCode !== null)
        throw new Error(`it ended without ${pattern}: ${this.stderr}`)
      await new Promise<void>((resolve) => {
        this.#grown = resolve
      })
    }
  }

  interrupt(): void {
    this.#child.kill('SIGINT')
  }

  async exitCode(): Promise<number | null> {
    await this.#closed
    return this.#child.exitCode
  }

  get lastLine(): Record<string, unknown> {
    return JSON.parse(this.stdout.trimEnd().split('\n').at(-1) ?? '')
  }
}

const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`)

async function moved(...args: string[]): Promise<Verdict> {
  const started = new Started(['--json', ...args])
  expect(await started.exitCode(), started.stderr).toBe(0)
  const verdict = started.lastLine as unknown as Verdict
  expect(verdict).toMatchObject({ status: 'completed', ramIdentical: true, guestErrors: 0 })
  // The display adapter's memory travels over the channels, with its headers.
  expect(verdict.videoIdentical).toBe(true)
  expect(verdict.deviceStateBytes).toBeGreaterThan(2.75 * 1024 * 1024)
  expect(verdict.rounds).toBeGreaterThanOrEqual(2)
  expect(verdict.guestPagesChecked).toBeGreaterThan(0)
  return verdict
}

function sumOf({ perChannel }: Verdict, counter: 'zeroCopyBytes' | 'copiedBytes'): number {
  return perChannel.reduce((sum, channel) => sum + channel[counter], 0)
}

describe('moving the guest', () => {
  test('a paced guest moves over 4 channels, and the last line has every figure', async () => {
    const verdict = await moved()
    expect(verdict).toMatchObject({ channels: 4, engine: 'splice', zeroCopy: 'auto' })
    expect(verdict.engineReason).toContain('the destination is on this machine')
    expect(verdict.perChannel.map(({ channelId }) => channelId)).toEqual([0, 1, 2, 3])
    for (const channel of verdict.perChannel) {
      expect(channel).toMatchObject({ sendMode: 'splice', copiedBytes: 0, unreleasedHighBytes: 0 })
    }
    // Of 4 channels as many work at a time as there are processors: some may have had no page.
    expect(sumOf(verdict, 'zeroCopyBytes')).toBeGreaterThan(32 * 1024 * 1024)
    // Round 0 sends at least the working set.
    expect(verdict.transferredBytes).toBeGreaterThan(32 * 1024 * 1024)
    // Every round fetches the log once, and the last one once more after the stop.
    expect(verdict.dirtySyncCount).toBe(verdict.rounds + 1)
    for (const name of [
      'totalTimeMs',
      'downtimeMs',
      'verifyMs',
      'throughputBytesPerSecond',
      'guestPagesPerSecond',
      'cpuSecondsPerGb',
    ] as const) {
      expect(verdict[name], name).toBeGreaterThan(0)
    }
    expect(verdict.downtimeMs).toBeLessThan(verdict.totalTimeMs)
    const partMs = Object.values(verdict.downtimeParts)
    expect(Math.min(...partMs)).toBeGreaterThan(0)
    expect(partMs.reduce((sum, ms) => sum + ms)).toBeLessThan(verdict.totalTimeMs)
  })

  test('a guest that writes flat out moves, over one channel', async () => {
    expect(await moved('--rate', '0', '--working-set', '16', '--channels', '1')).toMatchObject({
      channels: 1,
    })
  })

  test('zero-copy is taken when asked for', async () => {
    expect(await moved('--zero-copy', 'on')).toMatchObject({ zeroCopy: 'on' })
  })

  test('io_uring is taken when asked for, or it is said why not', async () => {
    const verdict = await moved('--engine', 'io-uring', '--zero-copy', 'on')
    expect(verdict.engine).toMatch(/^(io-uring|sendmsg)$/)
    expect(verdict.engineReason).toMatch(/asked for/)
    for (const { zeroCopyMode } of verdict.perChannel) expect(zeroCopyMode).toBe('fixed')
    expect(sumOf(verdict, 'copiedBytes')).toBeGreaterThan(32 * 1024 * 1024)
  })

  test('pages are compressed when asked for, and the gain is a line of what it prints', async () => {
    // A pace that a compressing channel follows on a busy machine, too.
    const pace = ['--rate', '10000', '--working-set', '16']
    const started = new Started(['--compression', 'zlib', '--compression-level', '2', ...pace])
    expect(await started.exitCode(), started.stderr).toBe(0)
    expect(started.stdout).toMatch(/^ {2}compression +zlib: .* MB of pages in .* MB, .* to 1$/m)
    expect(started.stdout).toMatch(/^ {2}RAM identical +yes$/m)
    expect(started.stdout).toContain('no registered buffers: compressed pages are copies')
  })

  test('what came of zero-copy is one line of what it prints', async () => {
    const page = join(tmpdir(), `multifd-start-${process.pid}.html`)
    onTestFinished(() => rmSync(page, { force: true }))
    const started = new Started(['--memory', '64', '--report', page])
    expect(await started.exitCode(), started.stderr).toBe(0)
    expect(started.stdout).toMatch(
      /^ {2}zero-copy +auto: \d\d\.\d % of the bytes not copied, 0\.0 % tried and copied, /m,
    )
    expect(started.stdout).toContain('the destination is on this machine')
    const text = readFileSync(page, 'utf8')
    for (const part of [
      'with 64 MiB',
      'the destination is on this machine',
      'RAM identical',
      '<svg',
    ]) {
      expect(text).toContain(part)
    }
  })

  test('a bandwidth limit is kept', async () => {
    const verdict = await moved('--bandwidth', '60', '--rate', '2000', '--working-set', '16')
    // The bucket may hold 20 ms, and the last extent of each channel 20 ms more.
    expect(verdict.throughputBytesPerSecond).toBeLessThan(60e6 * 1.1)
  })
})

describe('refusing', () => {
  test.each([
    [['--chanels', '4'], "unknown option '--chanels'"],
    [['--channels', '0'], 'Expected a whole number from 1 to 255'],
    [['--memory', '64.5'], 'Expected a whole number from 8 to 2048'],
    [['--engine', 'carrier-pigeon'], 'Allowed choices are auto, sendmsg, io-uring'],
    [['--compression', 'lz4'], 'Allowed choices are none, zlib, zstd'],
    [['--compression-level', '1'], 'is for --compression zlib or zstd'],
    [['--compression', 'zlib', '--compression-level', '10'], 'is 10, expected at most 9 for zlib'],
    [['--compression', 'zlib', '--zero-copy', 'on'], "'--zero-copy on' does not go with"],
    [['--engine', 'splice', '--zero-copy', 'off'], 'does not go with --engine splice'],
    [['--report', '/no/such/page.html'], '/no/such/page.html cannot be written (ENOENT)'],
    [['--working-set', '64'], "'--working-set <MiB>' is 64, expected at most 63"],
  ])('%j is refused by name, with exit code 2', async (args, sentence) => {
    const started = new Started([...args, '--json'])
    expect(await started.exitCode()).toBe(2)
    expect(started.stderr).toContain(sentence)
    expect(started.stderr.trimEnd().split('\n')).toHaveLength(1)
    expect(started.lastLine).toMatchObject({
      status: 'failed',
      error: { code: 'ERR_EXAMPLE_OPTIONS' },
    })
  })
})

describe('ending early', () => {
  /** A migration that takes minutes unless something ends it. */
  async function migrating(): Promise<{ started: Started; destinationPid: number }> {
    const started = new Started(['--json', '--bandwidth', '1'])
    const [, pid] = await started.shows(/to process (\d+)/)
    await started.shows(/^active, round 0/m)
    return { started, destinationPid: Number(pid) }
  }

  test('Ctrl-C cancels: the guest runs on at the source, and no process stays', async () => {
    const { started, destinationPid } = await migrating()
    started.interrupt()
    expect(await started.exitCode()).toBe(130)
    expect(started.stderr).toMatch(
      /^Cancelled .* runs on at the source \([1-9]\d* pages .*, 0 errors\)/m,
    )
    expect(started.lastLine).toMatchObject({
      status: 'cancelled',
      error: { code: 'ERR_MULTIFD_ABORTED' },
    })
    expect(isAlive(destinationPid)).toBe(false)
  })

  test('a killed destination costs nothing: the guest runs on at the source', async () => {
    const { started, destinationPid } = await migrating()
    process.kill(destinationPid, 'SIGKILL')
    expect(await started.exitCode()).toBe(1)
    expect(started.stderr).toMatch(
      /^Failed .* was killed \(SIGKILL\).* runs on at the source \([1-9]/m,
    )
    expect(started.stderr).toContain(', 0 errors)')
    expect(started.stderr).not.toMatch(/^\s+at /m)
    expect(started.lastLine).toMatchObject({ status: 'failed' })
    expect(started.lastLine.error).toHaveProperty('code', expect.stringMatching(/^ERR_MULTIFD_/))
  })
})
