// The fullest and the emptiest window of one second over a record of what went out when.

const WINDOW_MS = 1000

export interface Sent {
  /** Ascending. */
  atMs: number
  bytes: number
}

/**
 * Only windows that lie within the span count. The sum changes only where an entry enters or
 * leaves, so the fullest window begins at an entry, and the emptiest one begins just after one.
 */
export function worstWindows(
  sent: readonly Sent[],
  span: { fromMs: number; toMs: number },
): { leastBytes: number; mostBytes: number } {
  // totals[i] is the sum of the first i entries.
  const totals = [0]
  for (const { bytes } of sent) totals.push((totals.at(-1) as number) + bytes)
  const total = (index: number) => totals[index] as number

  let mostBytes = 0
  let leastBytes = Number.POSITIVE_INFINITY
  let end = 0
  for (const [index, { atMs }] of sent.entries()) {
    while (end < sent.length && (sent[end] as Sent).atMs < atMs + WINDOW_MS) end += 1
    if (atMs + WINDOW_MS <= span.toMs) {
      mostBytes = Math.max(mostBytes, total(end) - total(index))
      // Several entries of one instant leave the window together.
      const next = sent[index + 1]
      if (atMs >= span.fromMs && (next === undefined || next.atMs > atMs)) {
        leastBytes = Math.min(leastBytes, total(end) - total(index + 1))
      }
    }
  }
  return { leastBytes, mostBytes }
}
