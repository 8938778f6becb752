// What is shown while a guest moves: redrawn on a terminal, lines elsewhere, colours only where
// wanted.
import type { WriteStream } from 'node:tty'
import { expect, test } from 'vitest'
import { createDisplay } from '../../examples/v86/display.ts'
import type { MigrationProgress } from '../../src/index.ts'

function fakeStream(terminal: { isTTY: boolean; colours: boolean }): {
  stream: WriteStream
  written: () => string
} {
  let text = ''
  const stream = {
    isTTY: terminal.isTTY,
    columns: terminal.isTTY ? 120 : 0,
    rows: 24,
    hasColors: () => terminal.colours,
    write: (given: string) => {
      text += given
      return true
    },
  }
  return { stream: stream as unknown as WriteStream, written: () => text }
}

function progressOf(given: Partial<MigrationProgress>): MigrationProgress {
  const channel = { channelId: 0, bytesPerSecond: 250e6 } as MigrationProgress['channels'][number]
  return {
    status: 'active',
    round: 1,
    dirtySyncCount: 2,
    remainingBytes: 12.5e6,
    dirtyBytesPerSecond: 80e6,
    transferredBytes: 100e6,
    multifdBytes: 100e6,
    normalBytes: 99e6,
    compression: 'none',
    bytesPerSecond: 500e6,
    expectedDowntimeMs: 24.2,
    elapsedMs: 0,
    throttlePercent: 0,
    devices: [],
    channels: [channel, { ...channel, channelId: 1, bytesPerSecond: 125e6 }],
    ...given,
  }
}

const ESCAPE = '\u001b'
const WHOLE =
  'active, round 1, dirty 80.0 MB/s, remaining 12.5 MB, sent 100 MB at 500 MB/s, a stop would take 25 ms'

test('a terminal shows everything, one bar per channel, and redraws it in place', () => {
  const { stream, written } = fakeStream({ isTTY: true, colours: false })
  const display = createDisplay(stream)
  display.progress(progressOf({}))
  expect(written()).toContain(WHOLE)
  expect(written()).toContain(`channel  0  ${'█'.repeat(24)}    250 MB/s`)
  expect(written()).toContain(`channel  1  ${'█'.repeat(12)}${'░'.repeat(12)}    125 MB/s`)
  const before = written().length
  display.progress(progressOf({ round: 2 }))
  display.end()
  // Redrawing moves up to what it overwrites; without colours no style is set.
  expect(written().slice(before)).toContain(`${ESCAPE}[3A`)
  expect(written()).not.toContain(`${ESCAPE}[1m`)
})

test('colours are used where the terminal has them and nobody declined', () => {
  const { stream, written } = fakeStream({ isTTY: true, colours: true })
  createDisplay(stream).progress(progressOf({}))
  expect(written()).toContain(`${ESCAPE}[1mactive`)
})

test('elsewhere there are plain lines: per status, round and second, but not per event', () => {
  const { stream, written } = fakeStream({ isTTY: false, colours: false })
  const display = createDisplay(stream)
  display.progress(progressOf({ status: 'setup', round: 0 }))
  display.progress(progressOf({ elapsedMs: 0 }))
  display.progress(progressOf({ elapsedMs: 500 }))
  display.progress(progressOf({ elapsedMs: 1000 }))
  display.progress(progressOf({ elapsedMs: 1050, round: 2 }))
  display.progress(progressOf({ elapsedMs: 1200, round: 3 }))
  display.progress(progressOf({ elapsedMs: 1210, round: 3, status: 'completed' }))
  const lines = written().trimEnd().split('\n')
  expect(lines[0]).toBe(`${WHOLE}, channels 250 125 MB/s`)
  expect(lines.map((line) => line.slice(0, line.indexOf(', dirty')))).toEqual([
    'active, round 1',
    'active, round 1',
    'active, round 3',
    'completed, round 3',
  ])
})
