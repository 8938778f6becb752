// Checks of what callers hand in: unknown or misspelt options are refused by name, numbers by
// range, synchronously, before anything is opened.

import { IDSTR_BYTES_MAX } from './limits.ts'

/**
 * @throws TypeError unless `options` is an object, or naming its first key that is not in `known`.
 */
export function refuseUnknown(what: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new TypeError(`${what} needs an object of options, got ${describe(options)}`)
  }
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue
    throw new TypeError(`${what} has no option "${name}"; it knows ${known.join(', ')}`)
  }
}

/** @throws RangeError unless `value` is a whole number in min..max. */
export function wholeNumber(name: string, value: unknown, min: number, max: number): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max) {
    return value
  }
  throw new RangeError(
    `${name} must be a whole number from ${min} to ${max}, got ${describe(value)}`,
  )
}

/** @throws TypeError unless `value` is one of `choices`. */
export function oneOf<T extends string>(name: string, value: unknown, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value)
  if (found !== undefined) return found
  throw new TypeError(`${name} must be one of ${choices.join(', ')}, got ${describe(value)}`)
}

/** @throws TypeError unless `value` is a function. */
export function requireFunction(name: string, value: unknown): void {
  if (typeof value !== 'function') {
    throw new TypeError(`${name} must be a function, got ${describe(value)}`)
  }
}

/** The value, or false if unset. @throws TypeError unless `value` is a boolean or unset. */
export function optionalBoolean(name: string, value: unknown): boolean {
  if (value === undefined || typeof value === 'boolean') return value ?? false
  throw new TypeError(`${name} must be true or false, got ${describe(value)}`)
}

/** @throws TypeError unless `value` is an AbortSignal or unset. */
export function optionalSignal(value: unknown): AbortSignal | undefined {
  if (value === undefined || value instanceof AbortSignal) return value
  throw new TypeError(`signal must be an AbortSignal, got ${describe(value)}`)
}

/** @throws TypeError unless `value` is a string. */
export function requireString(name: string, value: unknown): string {
  if (typeof value === 'string') return value
  throw new TypeError(`${name} must be a string, got ${describe(value)}`)
}

/**
 * A name as the wire carries it.
 * @throws TypeError unless it is a string, RangeError unless it is 1..255 bytes of UTF-8 without
 * NUL.
 */
export function requireName(name: string, value: unknown): string {
  const text = requireString(name, value)
  const bytes = Buffer.from(text)
  const fits = bytes.length >= 1 && bytes.length <= IDSTR_BYTES_MAX
  // A lone surrogate does not survive the way to bytes and back.
  if (fits && !text.includes('\0') && bytes.toString() === text) return text
  throw new RangeError(
    `${name} must be 1 to ${IDSTR_BYTES_MAX} bytes of UTF-8 without NUL, got ${describe(text)}, ` +
      `${bytes.length} bytes`,
  )
}

/** What came, for an error: numbers, strings and the like themselves, of anything else its kind. */
export function describe(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object') return 'an object'
  if (typeof value === 'function') return 'a function'
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 64)) : String(value)
}
