// Tracing, not logging: the library never prints. Subscribe to a channel of
// node:diagnostics_channel, or set NODE_DEBUG=multifd for a line per event on stderr. Payloads are
// listed in docs/tracing.md. Nothing is published per page, and nothing is built unless somebody
// listens.

import { type Channel, channel } from 'node:diagnostics_channel'
import { debuglog } from 'node:util'

/** Who reports: an end of the migration, or what stands between two QEMUs. */
export type Side = 'source' | 'destination' | 'relay'

/** Every channel, with the payload it publishes. */
export interface TraceEvents {
  /** A migration changed its status. */
  'multifd:state': { side: Side; from: string; to: string }
  /** A round was planned and begins. */
  'multifd:round': { round: number; dirtyPages: number; extents: number; final: boolean }
  /** Every channel of the source sent its SYNC, or the destination collected them all. */
  'multifd:sync': { side: Side; sync: number }
  /** The flush policy decided something about a channel but to go on as before. */
  'multifd:flush': {
    channelId: number
    highWaterBytes: number
    lowWaterBytes: number
    zeroCopyUntilBytes: number
    mode: string
    reason: string
  }
  /** A round was collected, and it was decided what follows. */
  'multifd:decision': { kind: string; cause: string; reason: string }
  /** A broken connection was replaced; `pages` were given back for another round. */
  'multifd:resume': { side: Side; collectedRounds: number; pages: number }
  /** An error that is not the migration's first: recorded here and nowhere else. */
  'multifd:error': { side: Side; code: string; message: string }
}

const names: readonly (keyof TraceEvents)[] = [
  'multifd:state',
  'multifd:round',
  'multifd:sync',
  'multifd:flush',
  'multifd:decision',
  'multifd:resume',
  'multifd:error',
]

const channels = new Map<string, Channel>(names.map((name) => [name, channel(name)]))

/** Publishes `payload()` if anybody listens. */
export function trace<Name extends keyof TraceEvents>(
  name: Name,
  payload: () => TraceEvents[Name],
): void {
  const target = channels.get(name)
  if (target?.hasSubscribers) target.publish(payload())
}

/** All channel names, for documentation and its test. */
export const TRACE_CHANNELS: readonly string[] = names

const debug = debuglog('multifd')
if (debug.enabled) {
  for (const [name, source] of channels) {
    source.subscribe((payload) => debug('%s %j', name, payload))
  }
}
