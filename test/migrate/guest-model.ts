// A guest and a path as numbers: what the convergence decides about them, until it ends. The model
// knows the truth (bandwidth, latency, how fast the guest writes), the decision only what a
// migration would measure.

import { Convergence } from '../../src/migrate/convergence.ts'
import type { ConvergenceSettings } from '../../src/migrate/convergence-options.ts'
import type { Decision, RoundBegun } from '../../src/migrate/decision.ts'

export interface GuestModel {
  memoryBytes: number
  /** What the guest rewrites, and how fast, pages chosen at random. */
  workingSetBytes: number
  writtenBytesPerSecond: number
  bandwidthBytesPerSecond: number
  /** What each round takes beyond its bytes, and the stop beyond its own. */
  latencyMs: number
  roundTripMs: number
  /** How long rounds are held up by a busy machine, one after another, over and over. */
  heldUpMs: readonly number[]
  devicePendingBytes: number
  stopOnlyDeviceBytes: number
  loadTimeMs: number
  /** From this round on the destination could take the guest. */
  ackedInRound: number
}

export interface Course {
  decisions: Decision[]
  last: Decision
  /** The stop as the model has it; undefined without a switchover. */
  downtimeMs: number | undefined
  /** What the last collect found. */
  begun: RoundBegun
  elapsedMs: number
}

/** Runs until it ends, or until `enough` says so; no round takes less than 0.1 ms. */
export function migrate(
  model: GuestModel,
  settings: ConvergenceSettings,
  enough: (decisions: Decision[]) => boolean,
): Course {
  const convergence = new Convergence(settings)
  const decisions: Decision[] = []
  let nowMs = 1_000_000
  let dirtyBytes = model.memoryBytes
  let intervalMs = 0
  for (let round = 0; ; round += 1) {
    const begun: RoundBegun = {
      ...model,
      dirtyBytes,
      intervalMs,
      nowMs,
      switchoverAcked: round >= model.ackedInRound,
    }
    const decision = convergence.roundBegun(begun)
    decisions.push(decision)
    if (decision.kind !== 'round' || enough(decisions)) {
      const stopped = decision.kind === 'switchover'
      const downtimeMs = stopped ? trueDowntimeMs(model, dirtyBytes) : undefined
      return { decisions, last: decision, downtimeMs, begun, elapsedMs: nowMs - 1_000_000 }
    }
    const heldUpMs = model.heldUpMs[round % model.heldUpMs.length] ?? 0
    const elapsedMs = model.latencyMs + heldUpMs + transferMs(model, dirtyBytes)
    convergence.roundSent({ bytes: dirtyBytes, elapsedMs })
    intervalMs = Math.max(0.1, elapsedMs + model.roundTripMs)
    nowMs += intervalMs
    dirtyBytes = writtenIn(model, intervalMs, convergence.throttlePercent)
  }
}

/** Distinct bytes, in whole pages: of a working set written at random, some twice. */
export function writtenIn(model: GuestModel, ms: number, throttlePercent: number): number {
  const { workingSetBytes, writtenBytesPerSecond } = model
  const written = ((writtenBytesPerSecond * ms) / 1000) * (1 - throttlePercent / 100)
  const distinct = workingSetBytes * (1 - Math.exp(-written / workingSetBytes))
  return Math.round(distinct / 4096) * 4096
}

export function transferMs({ bandwidthBytesPerSecond }: GuestModel, bytes: number): number {
  return (bytes / bandwidthBytesPerSecond) * 1000
}

export function trueDowntimeMs(model: GuestModel, dirtyBytes: number): number {
  const { devicePendingBytes, stopOnlyDeviceBytes, loadTimeMs, roundTripMs, latencyMs } = model
  const bytes = dirtyBytes + devicePendingBytes + stopOnlyDeviceBytes
  return transferMs(model, bytes) + latencyMs + loadTimeMs + roundTripMs
}
