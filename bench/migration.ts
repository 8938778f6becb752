// One migration of the library, by a pair of processes of its own on loopback (bench/sides), and
// what both measured. It knows the sides' lines, nothing of the library.
import { dirname, extname, join } from 'node:path'
import { Child } from './child.ts'
import type { SideDone, SideOptions, SideReady } from './sides/side-options.ts'

export interface MigrationRun {
  /** Bytes of guest RAM that were populated at the source. */
  readonly ramBytes: number
  /** From before the first connect to the final answer, at the source. */
  readonly seconds: number
  /** CPU time of both processes over that span, seconds. */
  readonly cpuSeconds: number
  /** CPU time of the source process's JavaScript thread over its CPU time, 0..1. */
  readonly jsThreadShare: number
  readonly source: Side
  readonly destination: Side
  /** Both sides hash alike; null where no hash was asked for. */
  readonly ramIdentical: boolean | null
}

export type Side = Omit<SideDone, 'event' | 'checksum'> & Pick<SideReady, 'hugePageBytes'>

/** Runs it. Rejects when a side fails, or when both sides' RAM was hashed and differs. */
export async function runMigration(
  options: SideOptions,
  ramBytes: number,
  { signal }: { signal: AbortSignal },
): Promise<MigrationRun> {
  const start = (side: 'source' | 'destination') => {
    // Compiled they are .js; a comparison that runs from the tree has no compiled sides.
    const file = join(dirname(import.meta.filename), 'sides', side + extname(import.meta.filename))
    return Child.start(`the ${side}`, process.execPath, [file, JSON.stringify(options)], { signal })
  }
  await using destination = await start('destination')
  const listening = await destination.expect<SideReady>('ready', { signal })
  await using source = await start('source')
  const filled = await source.expect<SideReady>('ready', { signal })
  source.say(listening.uri ?? '')
  const [sent, received] = await both(
    source.expect<SideDone>('done', { signal }),
    destination.expect<SideDone>('done', { signal }),
  )
  const ramIdentical = options.checksum ? sent.checksum === received.checksum : null
  if (ramIdentical === false) {
    throw new Error(`RAM differs: source ${sent.checksum}, destination ${received.checksum}`)
  }
  return {
    ramBytes,
    seconds: sent.seconds,
    cpuSeconds: sent.cpuSeconds + received.cpuSeconds,
    jsThreadShare: sent.jsThreadCpuSeconds / sent.cpuSeconds,
    source: sideOf(filled, sent),
    destination: sideOf(listening, received),
    ramIdentical,
  }
}

function sideOf(ready: SideReady, { event: _, checksum: __, ...done }: SideDone): Side {
  return { ...done, hugePageBytes: ready.hugePageBytes }
}

// When a migration fails, each side blames the other; a reader needs both sentences.
async function both<T>(source: Promise<T>, destination: Promise<T>): Promise<[T, T]> {
  const [sent, received] = await Promise.allSettled([source, destination])
  if (sent.status === 'fulfilled' && received.status === 'fulfilled') {
    return [sent.value, received.value]
  }
  const reasons = [sent, received].flatMap((side) =>
    side.status === 'rejected' ? [String(side.reason)] : [],
  )
  throw new Error(`the migration failed\n${reasons.join('\n')}`)
}
