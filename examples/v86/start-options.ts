// The options of `npm start`: what they are called, what they may be, and the sentences that refuse
// the rest. It starts nothing; argv comes in, a checked plan or an exit code comes out.
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import type { MigrationSourceOptions } from '../../src/index.ts'
import { GUEST_PAGE_BYTES } from './control-page.ts'

export const EXIT_BAD_OPTIONS = 2

const RATE = 40_000
/**
 * Short enough that a paced guest takes several rounds; one that writes flat out needs QEMU's own.
 */
const PACED_LIMIT_MS = 10
const FLAT_OUT_LIMIT_MS = 300

type Engine = NonNullable<MigrationSourceOptions['engine']>
type ZeroCopy = NonNullable<MigrationSourceOptions['zeroCopy']>
type Compression = NonNullable<MigrationSourceOptions['compression']>
const ENGINES: readonly Engine[] = ['auto', 'sendmsg', 'io-uring', 'splice']
const ZERO_COPY: readonly ZeroCopy[] = ['auto', 'off', 'on']
const COMPRESSIONS: readonly Compression[] = ['none', 'zlib', 'zstd']
const ZLIB_LEVEL_MAX = 9

export type StartOptions = {
  readonly memoryMib: number
  readonly workingSetMib: number
  readonly channels: number
  /** Pages per second the guest rewrites; 0 = flat out. */
  readonly rate: number
  readonly engine: Engine
  readonly zeroCopy: ZeroCopy
  readonly compression: Compression
  /** Undefined: the library's own. */
  readonly compressionLevel: number | undefined
  /** MB/s, 10^6 bytes; 0 = no limit. */
  readonly bandwidth: number
  readonly downtimeLimitMs: number
  /** Where to write the page about it; undefined: nowhere. */
  readonly report: string | undefined
  readonly json: boolean
}

/** Either a plan, or that everything is said already (help, a refusal) and how to exit. */
export type ReadOptions =
  | { readonly ok: true; readonly options: StartOptions }
  | { readonly ok: false; readonly exitCode: number; readonly problem: string | undefined }

const HALF = '(default: half of the memory)'
const RATES = `0 = flat out (default: ${RATE}, or half of what --bandwidth carries if that is less)`
const LIMITS = `(default: ${PACED_LIMIT_MS}, or ${FLAT_OUT_LIMIT_MS} with --rate 0)`
const EXPLANATION = `
Boots a guest in v86, moves it while it runs to a second Node process, and verifies it there.
A guest that writes faster than --bandwidth carries, in more memory than fits --downtime-limit, never
becomes small enough to stop for: lower --rate, or raise --downtime-limit.
Ctrl-C cancels: the guest then runs on where it is.

Exit codes: 0 moved and verified, 1 failed, 2 bad options, 130 cancelled.`

/** Reads `args` (without node and script); writes help and refusals to stdout and stderr itself. */
export function readStartOptions(args: readonly string[]): ReadOptions {
  const command = createCommand()
  try {
    command.parse([...args], { from: 'user' })
    return { ok: true, options: planOf(command) }
  } catch (thrown) {
    if (!(thrown instanceof CommanderError)) throw thrown
    const refused = thrown.exitCode !== 0
    return {
      ok: false,
      exitCode: refused ? EXIT_BAD_OPTIONS : 0,
      problem: refused ? thrown.message : undefined,
    }
  }
}

function createCommand(): Command {
  return (
    new Command('npm start --')
      .exitOverride()
      .allowExcessArguments(false)
      // One sentence is one line, also where commander adds what may have been meant.
      .configureOutput({
        outputError: (text, write) => write(`${text.trimEnd().replaceAll('\n', ' ')}\n`),
      })
      .addOption(numeric('--memory <MiB>', 'guest memory', 8, 2048).default(256))
      .addOption(
        numeric('--working-set <MiB>', `what the guest rewrites and checks ${HALF}`, 1, 2047),
      )
      .addOption(numeric('--rate <pages/s>', `how fast, ${RATES}`, 0, 10_000_000))
      .addOption(numeric('--channels <n>', 'multifd channels', 1, 255).default(4))
      .addOption(choice('--engine <name>', 'how bytes reach the kernel', ENGINES))
      .addOption(choice('--zero-copy <mode>', 'send pages from where they lie', ZERO_COPY))
      .addOption(choice('--compression <method>', 'compress pages', COMPRESSIONS))
      .addOption(
        numeric('--compression-level <n>', 'zlib 0 to 9, zstd 0 to 20 (default: 1)', 0, 20),
      )
      .addOption(numeric('--bandwidth <MB/s>', 'limit, 0 = none', 0, 1_000_000).default(0))
      .addOption(
        numeric(
          '--downtime-limit <ms>',
          `stop the guest when the rest fits ${LIMITS}`,
          1,
          2_000_000,
        ),
      )
      .option('--report <file>', 'write an HTML page about it to this file')
      .option('--json', 'print one JSON object as the last line', false)
      .helpOption('-h, --help', 'print this')
      .addHelpText('after', EXPLANATION)
  )
}

/**
 * A guest that writes faster than the limit carries would never become small enough to stop for.
 */
function defaultRate(bandwidth: number): number {
  if (bandwidth === 0) return RATE
  return Math.min(RATE, Math.floor((bandwidth * 1e6) / GUEST_PAGE_BYTES / 2))
}

/** A whole number in a range, refused with the range. */
function numeric(flags: string, description: string, min: number, max: number): Option {
  return new Option(flags, description).argParser((text: string) => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= min && value <= max) return value
    throw new InvalidArgumentError(`Expected a whole number from ${min} to ${max}.`)
  })
}

/** One of some names; the first is the default. */
function choice(flags: string, description: string, names: readonly string[]): Option {
  return new Option(flags, description).choices(names).default(names[0])
}

function planOf(command: Command): StartOptions {
  const given = command.opts<{
    memory: number
    workingSet: number | undefined
    rate: number | undefined
    channels: number
    engine: Engine
    zeroCopy: ZeroCopy
    compression: Compression
    compressionLevel: number | undefined
    bandwidth: number
    downtimeLimit: number | undefined
    report: string | undefined
    json: boolean
  }>()
  const workingSetMib = given.workingSet ?? Math.floor(given.memory / 2)
  const rate = given.rate ?? defaultRate(given.bandwidth)
  // The first MiB belongs to the firmware.
  if (workingSetMib >= given.memory) {
    command.error(
      `error: option '--working-set <MiB>' is ${workingSetMib}, expected at most ` +
        `${given.memory - 1}: 1 MiB less than --memory`,
    )
  }
  const misfit = engineMisfit(given) ?? compressionMisfit(given)
  if (misfit !== undefined) command.error(`error: ${misfit}`)
  return {
    memoryMib: given.memory,
    workingSetMib,
    channels: given.channels,
    rate,
    engine: given.engine,
    zeroCopy: given.zeroCopy,
    compression: given.compression,
    compressionLevel: given.compressionLevel,
    bandwidth: given.bandwidth,
    downtimeLimitMs: given.downtimeLimit ?? (rate === 0 ? FLAT_OUT_LIMIT_MS : PACED_LIMIT_MS),
    report: given.report,
    json: given.json,
  }
}

/** Why an engine and zero-copy do not go together, if they do not. */
function engineMisfit({ engine, zeroCopy }: { engine: Engine; zeroCopy: ZeroCopy }) {
  if (engine !== 'splice' || zeroCopy === 'auto') return undefined
  return `option '--zero-copy ${zeroCopy}' does not go with --engine splice, which never copies`
}

/** Why these do not go together, if they do not. */
function compressionMisfit(given: {
  zeroCopy: ZeroCopy
  compression: Compression
  compressionLevel: number | undefined
}): string | undefined {
  const { zeroCopy, compression, compressionLevel: level } = given
  if (compression === 'none') {
    if (level === undefined) return undefined
    return "option '--compression-level <n>' is for --compression zlib or zstd"
  }
  if (zeroCopy === 'on') return "option '--zero-copy on' does not go with --compression"
  if (compression !== 'zlib' || level === undefined || level <= ZLIB_LEVEL_MAX) return undefined
  return `option '--compression-level <n>' is ${level}, expected at most ${ZLIB_LEVEL_MAX} for zlib`
}
