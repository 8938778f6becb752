// The words of a decision: what is left, what a stop would cost, what the limit is, what comes
// next, and what an operator can do. It decides nothing.

import { formatBytes, formatMs } from '../kit/format.ts'
import type { DecisionCause, DecisionKind, Outlook } from './decision.ts'

/** One sentence. */
export function reasonOf(kind: DecisionKind, cause: DecisionCause, outlook: Outlook): string {
  const { begun, nextStopBytes, nextDowntimeMs, settings } = outlook
  const limit = formatMs(settings.downtimeLimitMs)
  switch (cause) {
    case 'first-round':
      return `round 0 sends all memory in use, ${formatBytes(begun.dirtyBytes)}`
    case 'above-limit':
      return (
        `one more round: ${costOf(outlook)}, above the limit of ${limit}; ${writes(outlook)}, ` +
        `so that about ${formatBytes(nextStopBytes)} will be left after it${throttled(outlook)}`
      )
    case 'stalled':
      return (
        `stalled, one more round: ${costOf(outlook)}, above the limit of ${limit}; ` +
        `${writes(outlook)}, and what is left no longer falls${throttled(outlook)}`
      )
    case 'further-round':
      return (
        `one more round: ${costOf(outlook)}, within the limit of ${limit}, ` +
        `but the round will probably bring that down to ${formatMs(nextDowntimeMs)}`
      )
    case 'awaiting-ack':
      return `one more round: ${costOf(outlook)}, but the destination has not said yet that it could take the guest`
    case 'within-limit':
      return `stopping the guest: ${costOf(outlook)}, within the limit of ${limit}, and another round would hardly shorten it`
    case 'local-minimum':
      return `stopping the guest: ${costOf(outlook)}, within the limit of ${limit}, and what is left no longer falls`
    case 'nothing-dirty':
      return `stopping the guest: no page is left to send, ${costOf(outlook)}`
    case 'time-limit': {
      const what = kind === 'cancel' ? 'giving up' : 'stopping the guest'
      const passed = `the time limit of ${formatMs(settings.timeLimitMs)} has passed`
      return `${what}: ${passed} after ${formatMs(outlook.elapsedMs)}; ${costOf(outlook)}`
    }
  }
}

/** What would make a stalled migration end, one sentence. */
export function adviceOf(outlook: Outlook): string {
  const { begun, bestDowntimeMs, settings, throttlePercent } = outlook
  const fixedMs = begun.loadTimeMs + begun.roundTripMs
  const raised = `raise downtimeLimitMs to ${Math.ceil(bestDowntimeMs)} or more`
  if (fixedMs > settings.downtimeLimitMs) {
    return `${raised}: loading devices and the round trip alone take ${formatMs(fixedMs)}`
  }
  const slower = settings.autoConverge
    ? `the guest is slowed down by ${throttlePercent} % already`
    : 'slow the guest down (autoConverge)'
  return (
    `${slower}; ${raised}; or give it more bandwidth than the ` +
    `${formatBytes(outlook.dirtyBytesPerSecond)}/s that the guest writes`
  )
}

/** `with 10.0 MiB left at 1.00 GiB/s the stop would take 15 ms (5.2 ms for the round trip)`. */
function costOf({ begun, stopBytes, bandwidthBytesPerSecond: rate, downtimeMs }: Outlook): string {
  const { loadTimeMs, roundTripMs } = begun
  const speed = rate === undefined ? '' : ` at ${formatBytes(rate)}/s`
  const load = loadTimeMs > 0 ? `${formatMs(loadTimeMs)} of it to load devices, ` : ''
  return (
    `with ${formatBytes(stopBytes)} left${speed} the stop would take ${formatMs(downtimeMs)} ` +
    `(${load}${formatMs(roundTripMs)} for the round trip)`
  )
}

function writes({ dirtyBytesPerSecond }: Outlook): string {
  return `the guest writes ${formatBytes(dirtyBytesPerSecond)}/s`
}

function throttled({ throttlePercent }: Outlook): string {
  return throttlePercent === 0 ? '' : `; it is slowed down by ${throttlePercent} %`
}
