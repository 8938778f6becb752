// A side's end of its conversation with the comparison: its order is the one argument, answers are
// JSON lines on stdout, and the parent's lines come on stdin. When the parent is gone, so is the
// side.
import { createInterface } from 'node:readline'
import type { Forwarded, ForwarderReady } from './forwarder-lines.ts'
import type { SideDone, SideReady, SourceDone } from './side-options.ts'
import type { SentLine, SnapshotReady, StoredLine } from './snapshot-lines.ts'
import type { StagedDone } from './staged-lines.ts'

/** The comparison that started this side wrote it, from the same type. */
export function readOrder<Order>(): Order {
  const order = process.argv[2]
  if (order === undefined) throw new Error('a side is started by a comparison, with its order')
  return JSON.parse(order) as Order
}

type Line =
  | (SideReady | SideDone | SourceDone | SnapshotReady | StoredLine | SentLine)
  | (ForwarderReady | Forwarded | StagedDone)

export function say(line: Line): void {
  process.stdout.write(`${JSON.stringify(line)}\n`)
}

/** Resolves with the parent's next line, and watches that the parent stays. */
export function nextLine(): Promise<string> {
  const lines = createInterface({ input: process.stdin })
  lines.once('close', () => process.exit(1))
  return new Promise((resolve) => lines.once('line', resolve))
}
