// From native threads to JavaScript: one wake-up per turn of the event loop, and at the end of that
// turn every ring is read. Maps a thread's handle to who listens; knows nothing of what the events
// mean.

import { type NativeThread, native } from '../kit/native.ts'

/** Native event kinds; native/channel/events.h has the same numbers. */
export const EVENT = {
  READY: 1,
  EXTENT_DONE: 2,
  SYNC_DONE: 3,
  SYNC_ARRIVED: 4,
  PEER_END: 5,
  FAILED: 6,
  CLOSED: 7,
  ACCEPTED: 8,
  DEVICE_STATE_DONE: 9,
  DEVICE_STATE: 10,
} as const

type Listener = (kind: number, value: number) => void

const listeners = new Map<number, Listener>()
// 85 events of three numbers each; what does not fit comes with the next pass of the same loop.
const events = new Float64Array(255)
let woken = false
let due = false

/** Delivers the thread's events to `listener`, in order, until its CLOSED event was delivered. */
export function listen(thread: NativeThread, listener: Listener): void {
  if (!woken) {
    native().setWakeup(deliverSoon)
    woken = true
  }
  listeners.set(thread.handle, listener)
  // The thread may have spoken before anybody listened.
  deliverSoon()
}

// Node calls a wake-up again in the same turn when a thread speaks meanwhile. The rings are read
// only when the loop has polled, and no wake-up is asked for until then: what is said in between is
// read with the rest.
function deliverSoon(): void {
  if (due) return
  due = true
  setImmediate(deliver)
}

function deliverOne(at: number): void {
  const handle = events[at] ?? 0
  const kind = events[at + 1] ?? 0
  const listener = listeners.get(handle)
  if (kind === EVENT.CLOSED) listeners.delete(handle)
  listener?.(kind, events[at + 2] ?? 0)
}

// Never nested: nothing that a listener does delivers events before it returns.
function deliver(): void {
  due = false
  let used: number
  do {
    used = native().drain(events)
    for (let at = 0; at < used; at += 3) deliverOne(at)
  } while (used === events.length)
}
