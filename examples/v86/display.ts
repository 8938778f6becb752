// Shows a migration while it runs: redrawn in place on a terminal, plain lines elsewhere. It only
// formats what it is told; colours follow the terminal and NO_COLOR.
import type { WriteStream } from 'node:tty'
import { styleText } from 'node:util'
import { createLogUpdate } from 'log-update'
import type { MigrationProgress } from '../../src/index.ts'
import type { StartOptions } from './start-options.ts'

/**
 * Plain lines: one per status, and per round or second, but not one for each of many short rounds.
 */
const LINE_INTERVAL_MS = 1_000
const ROUND_INTERVAL_MS = 100
const BAR_CELLS = 24

export interface Display {
  booting(options: StartOptions, destinationPid: number | undefined): void
  progress(progress: MigrationProgress): void
  /** The guest runs at the destination. */
  arrived(downtimeMs: number): void
  /** Nothing more comes; what is drawn stays. */
  end(): void
}

export function createDisplay(stream: WriteStream): Display {
  // A terminal without a size (a pipe that pretends) has no place to redraw in.
  const redraws = stream.isTTY && stream.columns > 0 && process.env.TERM !== 'dumb'
  return redraws ? new LiveDisplay(stream) : new LineDisplay(stream)
}

/** Whether to colour: a terminal that has colours, and nobody asked for none (NO_COLOR). */
export function hasColour(stream: WriteStream): boolean {
  return stream.isTTY === true && stream.hasColors()
}

/**
 * Colours if told to: by itself styleText would ask about stdout, which is not always the stream.
 */
export function paint(
  style: Parameters<typeof styleText>[0],
  text: string,
  colour: boolean,
): string {
  return colour ? styleText(style, text, { validateStream: false }) : text
}

class LineDisplay implements Display {
  readonly #stream: WriteStream
  #shown: MigrationProgress | undefined

  constructor(stream: WriteStream) {
    this.#stream = stream
  }

  booting(options: StartOptions, destinationPid: number | undefined): void {
    this.#line(bootingText(options, destinationPid))
  }

  progress(progress: MigrationProgress): void {
    if (progress.status === 'setup' || !this.#isDue(progress)) return
    this.#shown = progress
    const channels = progress.channels.map(({ bytesPerSecond }) => mega(bytesPerSecond)).join(' ')
    this.#line(`${overallText(progress)}, channels ${channels || '-'} MB/s`)
  }

  arrived(downtimeMs: number): void {
    this.#line(arrivedText(downtimeMs))
  }

  end(): void {}

  #isDue({ status, round, elapsedMs }: MigrationProgress): boolean {
    const before = this.#shown
    if (before?.status !== status) return true
    const interval = before.round === round ? LINE_INTERVAL_MS : ROUND_INTERVAL_MS
    return elapsedMs - before.elapsedMs >= interval
  }

  #line(text: string): void {
    this.#stream.write(`${text}\n`)
  }
}

class LiveDisplay implements Display {
  readonly #draw: ReturnType<typeof createLogUpdate>
  readonly #colour: boolean
  #top = ''
  #fastest = 1
  #last = ''

  constructor(stream: WriteStream) {
    this.#draw = createLogUpdate(stream)
    this.#colour = hasColour(stream)
  }

  booting(options: StartOptions, destinationPid: number | undefined): void {
    this.#top = bootingText(options, destinationPid)
    this.#show([])
  }

  progress(progress: MigrationProgress): void {
    for (const { bytesPerSecond } of progress.channels) {
      this.#fastest = Math.max(this.#fastest, bytesPerSecond)
    }
    this.#last = overallText(progress)
    this.#show([
      this.#paint('bold', this.#last),
      ...progress.channels.map(({ channelId, bytesPerSecond }) => {
        const cells = Math.round((BAR_CELLS * bytesPerSecond) / this.#fastest)
        const bar = this.#paint('cyan', '█'.repeat(cells)) + '░'.repeat(BAR_CELLS - cells)
        const number = String(channelId).padStart(3)
        return `  channel${number}  ${bar} ${mega(bytesPerSecond).padStart(6)} MB/s`
      }),
    ])
  }

  arrived(downtimeMs: number): void {
    this.#show([this.#paint('bold', this.#last), arrivedText(downtimeMs)])
  }

  end(): void {
    this.#draw.done()
  }

  #show(lines: readonly string[]): void {
    this.#draw([this.#top, ...lines].join('\n'))
  }

  #paint(style: 'bold' | 'cyan', text: string): string {
    return paint(style, text, this.#colour)
  }
}

function arrivedText(downtimeMs: number): string {
  return `downtime ${downtimeMs.toFixed(1)} ms; the guest runs at the destination and checks its memory`
}

function bootingText(options: StartOptions, destinationPid: number | undefined): string {
  const { memoryMib, workingSetMib, rate, channels } = options
  const speed = rate === 0 ? 'flat out' : `${rate} pages/s`
  return (
    `guest with ${memoryMib} MiB, rewriting ${workingSetMib} MiB at ${speed}; ` +
    `${channels} channel${channels === 1 ? '' : 's'} to process ${destinationPid ?? '?'}`
  )
}

function overallText(progress: MigrationProgress): string {
  const { status, round, remainingBytes, dirtyBytesPerSecond, transferredBytes } = progress
  const known = round > 0 && status === 'active'
  const downtime = known ? `, a stop would take ${Math.ceil(progress.expectedDowntimeMs)} ms` : ''
  return (
    `${status}, round ${round}, dirty ${mega(dirtyBytesPerSecond)} MB/s, ` +
    `remaining ${mega(remainingBytes)} MB, sent ${mega(transferredBytes)} MB ` +
    `at ${mega(progress.bytesPerSecond)} MB/s${downtime}`
  )
}

/** Bytes in millions, three digits at least. */
export function mega(bytes: number): string {
  const millions = bytes / 1e6
  return millions.toFixed(millions < 100 ? 1 : 0)
}
