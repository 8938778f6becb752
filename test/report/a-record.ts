// A made-up migration of any size, as a recorder would have recorded it.

import type { Environment } from '../../src/report/environment.ts'
import type { MigrationRecord, Sample } from '../../src/report/migration-record.ts'

export const ENVIRONMENT: Environment = {
  kernel: '6.12.0',
  cpu: 'a made-up CPU',
  cores: 2,
  memoryBytes: 8 * 2 ** 30,
  interface: 'loopback',
  congestionControl: 'cubic',
  optmemMaxBytes: '131072',
  transparentHugePages: 'madvise',
  memlockLimit: '8388608',
  node: 'v20.20.2',
  version: '0.1.0',
  gitRevision: '0123456789ab',
  gitDirty: false,
  loadAverage: '0.1 0.2 0.3',
}

export function aSample(elapsedMs: number, channels = 2, bytesPerSecond = 1e9): Sample {
  const series: Record<string, number> = {}
  for (let id = 0; id < channels; id++) series[`channel ${id}`] = bytesPerSecond / channels
  return { elapsedMs, status: 'active', bytesPerSecond, transferredBytes: 1e9, series }
}

export function aRecord(channels = 2, changes: Partial<MigrationRecord> = {}): MigrationRecord {
  return {
    title: 'Migration of a guest',
    lead: 'Made up.',
    startedAt: '2026-01-02T03:04:05.000Z',
    environment: ENVIRONMENT,
    samples: [100, 200, 300].map((elapsedMs) => aSample(elapsedMs, channels)),
    rounds: [
      { round: 0, dirtyBytes: 256e6, beganMs: 10, tookMs: 200, final: false },
      { round: 1, dirtyBytes: 12e6, beganMs: 212, tookMs: 20, final: true },
    ],
    roundsLeftOut: 0,
    decisions: [{ elapsedMs: 212, text: 'round 1 fits the downtime limit: stop' }],
    stoppedMs: 211,
    outcome: {
      status: 'completed',
      totalTimeMs: 290,
      downtimeMs: 42.5,
      transferredBytes: 270e6,
      throughputBytesPerSecond: 931e6,
      cpuSeconds: 0.135,
      cpuOf: 'channel threads, both sides',
      uncopiedShare: 0.25,
      triedAndCopiedShare: 0.5,
      engine: 'io-uring',
      engineReason: 'sends from registered memory',
    },
    downtimeParts: { stopMs: 1, collectMs: 2, roundMs: 20, saveMs: 4, loadMs: 10, resumeMs: 5.5 },
    channels: [],
    ...changes,
  }
}

/** What a page embeds for programs. */
export function dataOf(page: string): Record<string, unknown> {
  const text = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(page)?.[1]
  return JSON.parse(text ?? '')
}

/** What a person reads, without markup. */
export function wordsOf(page: string): string {
  const body = page.slice(page.indexOf('<main>'), page.indexOf('</main>'))
  return body.replace(/<[^>]*>/g, ' ').replace(/\s+/g, ' ')
}
