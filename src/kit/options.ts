// Checks of what callers hand in: unknown or misspelt options are refused by name, numbers by range,
// synchronously, before anything is opened.

/** @throws TypeError naming the first key of `options` that is not in `known`. */
export function refuseUnknown(what: string, options: object, known: readonly string[]): void {
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
  throw new RangeError(`${name} must be a whole number from ${min} to ${max}, got ${String(value)}`)
}

/** @throws TypeError unless `value` is one of `choices`. */
export function oneOf<T extends string>(name: string, value: unknown, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value)
  if (found !== undefined) return found
  throw new TypeError(`${name} must be one of ${choices.join(', ')}, got ${String(value)}`)
}

/** @throws TypeError unless `value` is a function. */
export function requireFunction(name: string, value: unknown): void {
  if (typeof value !== 'function') {
    throw new TypeError(`${name} must be a function, got ${typeof value}`)
  }
}
