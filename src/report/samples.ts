// Turns what each side tells while it runs into samples of one shape. Pure, but for remembering the
// counters of the event before, from which rates are made where a side gives none.

import type { MigrationProgress } from '../migrate/progress.ts'
import type { RelayProgress } from '../relay/progress.ts'
import type { ReceptionProgress } from '../snapshot/reception.ts'
import type { SendProgress } from '../snapshot/send-progress.ts'
import type { Sample } from './migration-record.ts'

export function sampleOfMigration(event: MigrationProgress): Sample {
  const { elapsedMs, status, bytesPerSecond, transferredBytes, channels } = event
  return {
    elapsedMs,
    status,
    bytesPerSecond,
    transferredBytes,
    remainingBytes: event.remainingBytes,
    dirtyBytesPerSecond: event.dirtyBytesPerSecond,
    series: Object.fromEntries(
      channels.map((channel) => [`channel ${channel.channelId}`, channel.bytesPerSecond]),
    ),
  }
}

export function sampleOfReception(event: ReceptionProgress): Sample {
  const { elapsedMs, status, bytesPerSecond, receivedBytes } = event
  const series = { 'all channels': bytesPerSecond }
  return { elapsedMs, status, bytesPerSecond, transferredBytes: receivedBytes, series }
}

/** Of sides that count, but give no rates for what is plotted. */
export class RateSampler {
  #beforeMs = 0
  #before: Readonly<Record<string, number>> = {}

  sending({ elapsedMs, status, destinations }: SendProgress): Sample {
    const [only] = destinations
    const counts =
      only !== undefined && destinations.length === 1
        ? only.channels.map(({ channelId, sentBytes }) => [`channel ${channelId}`, sentBytes])
        : destinations.map(({ uri, transferredBytes }) => [uri, transferredBytes])
    const sum = (pick: (destination: (typeof destinations)[number]) => number): number =>
      destinations.reduce((total, destination) => total + pick(destination), 0)
    return {
      elapsedMs,
      status: destinations.length === 1 ? (only?.status ?? status) : status,
      bytesPerSecond: sum(({ bytesPerSecond }) => bytesPerSecond),
      transferredBytes: sum(({ transferredBytes }) => transferredBytes),
      remainingBytes: sum(({ remainingBytes }) => remainingBytes),
      series: this.#rates(elapsedMs, Object.fromEntries(counts)),
    }
  }

  relaying({ elapsedMs, status, receivedBytes, sentBytes }: RelayProgress): Sample {
    const series = this.#rates(elapsedMs, { 'to the destination': sentBytes })
    const bytesPerSecond = series['to the destination'] ?? 0
    return { elapsedMs, status, bytesPerSecond, transferredBytes: receivedBytes, series }
  }

  #rates(elapsedMs: number, counts: Readonly<Record<string, number>>): Record<string, number> {
    const seconds = Math.max((elapsedMs - this.#beforeMs) / 1000, 1e-3)
    const rates = Object.entries(counts).map(([name, bytes]) => [
      name,
      (bytes - (this.#before[name] ?? 0)) / seconds,
    ])
    this.#beforeMs = elapsedMs
    this.#before = counts
    return Object.fromEntries(rates)
  }
}
