// Amounts as people read them. Where to print them is the caller's.

/** `1.50 GiB`, `12.3 MiB`, `17 bytes`. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']
  let amount = bytes
  let unit = 0
  while (amount >= 1024 && unit < units.length - 1) {
    amount /= 1024
    unit += 1
  }
  if (unit === 0) return `${Math.round(amount)} bytes`
  // From 1000 on three digits would be written with an exponent.
  return `${amount >= 1000 ? Math.round(amount) : amount.toPrecision(3)} ${units[unit]}`
}

/** `0.4 ms`, `17 ms`, `3100 ms`; `unknown` for what is not finite. */
export function formatMs(milliseconds: number): string {
  if (!Number.isFinite(milliseconds)) return 'unknown'
  return `${milliseconds < 10 ? Number(milliseconds.toFixed(1)) : Math.round(milliseconds)} ms`
}
