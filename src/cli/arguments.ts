// Checks of what is typed, for several commands: a wrong value is wrong usage, with its sentence.

import { CommanderError, InvalidArgumentError } from 'commander'
import { EXIT_USAGE } from './command.ts'

/** A parser for commander: whole numbers of a range. */
export function wholeNumberOf(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
    if (value >= min && value <= max) return value
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`)
  }
}

/** The library's own refusal of an option or a URI is wrong usage, too. */
export async function orWrongUsage<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    if (!(error instanceof TypeError) && !(error instanceof RangeError)) throw error
    throw new CommanderError(EXIT_USAGE, 'multifd', error.message)
  }
}
