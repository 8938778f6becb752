// What the two processes of the example tell each other, over Node's IPC. The guest itself never
// passes here: it goes through the library's sockets. Both ends import their types from this file.

/** The destination's one order, given as its argument. */
export type DestinationPlan = {
  readonly memorySizeBytes: number
  readonly peerTimeoutMs: number
}

/** What the destination reports, in this order; `failed` may come instead of any of them. */
export type DestinationReport =
  | { readonly kind: 'listening'; readonly uri: string }
  | Arrived
  | Checked
  | { readonly kind: 'failed'; readonly code: string; readonly reason: string }

/** The guest runs at the destination. */
export type Arrived = {
  readonly kind: 'arrived'
  /** CLOCK_MONOTONIC, comparable between the processes of one host. */
  readonly firstInstructionAtMs: number
  /** Of all RAM and of the video memory before the guest ran, and the time that took meanwhile. */
  readonly ramHash: string
  readonly videoHash: string
  readonly verifyMs: number
  /** CPU time of the channel threads. */
  readonly channelCpuSeconds: number
}

/** The guest ran on for a moment and checked its memory. */
export type Checked = {
  readonly kind: 'checked'
  readonly guestErrors: number
  readonly pagesChecked: number
  readonly pagesPerSecond: number
}

/** A failure of the example itself; those of the library are MultifdErrors. Both have a `code`. */
export class StartError extends Error {
  readonly code: string

  constructor(code: string, sentence: string) {
    super(sentence)
    this.name = 'StartError'
    this.code = code
  }
}

/** Code and sentence of whatever was thrown. */
export function describeError(thrown: unknown): { code: string; reason: string } {
  if (!(thrown instanceof Error)) return { code: 'ERR_EXAMPLE', reason: String(thrown) }
  const code = (thrown as { code?: unknown }).code
  return { code: typeof code === 'string' ? code : 'ERR_EXAMPLE', reason: thrown.message }
}
