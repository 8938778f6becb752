// Options with checked values. A bad value is refused by commander, which names the option.
import { InvalidArgumentError, Option } from 'commander'

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }
const PAGE_BYTES = 4096

/** A size like `64MiB`, `4G` or `1048576`; bytes, at least one page and a multiple of it. */
export function parseSize(text: string): number {
  const match = /^(\d+)\s*([KMG]?)(?:i?B)?$/i.exec(text)
  const bytes = Number(match?.[1]) * (UNITS[(match?.[2] ?? '').toUpperCase()] ?? Number.NaN)
  if (!Number.isSafeInteger(bytes) || bytes < PAGE_BYTES || bytes % PAGE_BYTES !== 0) {
    throw new InvalidArgumentError(
      `Expected a size such as 64MiB or 4GiB, a multiple of ${PAGE_BYTES} bytes.`,
    )
  }
  return bytes
}

/** A parser of whole numbers of this range. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`Expected a whole number from ${min} to ${max}.`)
    }
    return value
  }
}

/** An option that takes a size, in bytes once parsed. */
export function sizeOption(flags: string, description: string): Option {
  return new Option(flags, description).argParser(parseSize)
}

/** An option that takes a whole number of this range. */
export function numberOption(
  flags: string,
  description: string,
  { min, max }: { min: number; max: number },
): Option {
  return new Option(flags, description).argParser(wholeNumber(min, max))
}

/** What every comparison's `--channels` and `--pairs` allow. */
export const CHANNELS_RANGE = { min: 1, max: 64 }
export const PAIRS_RANGE = { min: 1, max: 1000 }

/** How the library sends; the first of each is its own default. */
export const ENGINES = ['auto', 'sendmsg', 'io-uring', 'splice'] as const
export const ZERO_COPY = ['auto', 'off', 'on'] as const

export function engineOption(): Option {
  const option = new Option('--engine <name>', 'of the library')
  return option.choices(ENGINES).default(ENGINES[0])
}

export function zeroCopyOption(byDefault: (typeof ZERO_COPY)[number]): Option {
  const option = new Option('--zero-copy <mode>', 'of the library')
  return option.choices(ZERO_COPY).default(byDefault)
}
