// One migration of the library, by a pair of processes of its own (bench/sides) on a path, and what
// both measured. It knows the sides' lines, nothing of the library.
import { extname, join } from 'node:path'
import { Child } from './child.ts'
import { type DutyCycle, SlowDown } from './duty-cycle.ts'
import { LOOPBACK, type Path } from './path.ts'
import type {
  MigrationOrder,
  SideDone,
  SideOptions,
  SideReady,
  SourceDone,
} from './sides/side-options.ts'

export interface MigrationRun {
  /** Small migrations that each side's process had made before. */
  readonly warmUps: number
  /** Bytes of guest RAM that were populated at the source. */
  readonly ramBytes: number
  /** From before the first connect to the final answer, at the source. */
  readonly seconds: number
  /** CPU time of both processes, less a writing guest's, over that span; seconds. */
  readonly cpuSeconds: number
  /** CPU time of the source process's JavaScript thread over its CPU time, 0..1. */
  readonly jsThreadShare: number
  readonly source: Side & Pick<SourceDone, 'migration' | 'written' | 'planMs'>
  readonly destination: Side
  /** The share of the time in which a slow destination could run; 1 for any other. */
  readonly destinationRunningShare: number
  /** Both sides hash alike; null where no hash was asked for. */
  readonly ramIdentical: boolean | null
}

export type Side = Omit<SideDone, 'event' | 'checksum'> &
  Pick<SideReady, 'hugePageBytes' | 'network'>

export interface RunOptions {
  readonly signal: AbortSignal
  /** Loopback unless given. */
  readonly path?: Path
  /** Slows the destination down while the migration runs. */
  readonly slowDestination?: DutyCycle | undefined
  /** Where the source connects to instead; given where the destination listens. */
  readonly through?: (uri: string) => Promise<string>
}

/** Runs it. Rejects when a side fails, or when both sides' RAM was hashed and differs. */
export async function runMigration(
  order: MigrationOrder,
  ramBytes: number,
  { signal, path = LOOPBACK, slowDestination, through = async (uri) => uri }: RunOptions,
): Promise<MigrationRun> {
  const options: SideOptions = {
    ...order,
    address: path.destination.address,
    allowPlaintext: path.name !== 'lo',
  }
  const start = (side: 'source' | 'destination') => {
    const argv = sideCommand(side, options)
    const [file = '', ...args] = path[side].command(argv)
    return Child.start(`the ${side}`, file, args, { signal })
  }
  await using destination = await start('destination')
  await using source = await start('source')
  const [filled, listening] = await both(
    // each fills its memory meanwhile
    source.expect<SideReady>('ready', { signal }),
    destination.expect<SideReady>('ready', { signal }),
  )
  using slow = slowDestination && new SlowDown(destination, slowDestination)
  source.say(await through(listening.uri ?? ''))
  const [sent, received] = await both(
    source.expect<SourceDone>('done', { signal }),
    destination.expect<SideDone>('done', { signal }),
  )
  const destinationRunningShare = slow?.runningShare ?? 1
  const ramIdentical = options.checksum ? sent.checksum === received.checksum : null
  if (ramIdentical === false) {
    throw new Error(`RAM differs: source ${sent.checksum}, destination ${received.checksum}`)
  }
  return {
    warmUps: order.warmUps ?? 0,
    ramBytes,
    seconds: sent.seconds,
    cpuSeconds: sent.cpuSeconds + received.cpuSeconds,
    jsThreadShare: sent.jsThreadCpuSeconds / sent.cpuSeconds,
    source: {
      ...sideOf(filled, sent),
      migration: sent.migration,
      written: sent.written,
      planMs: sent.planMs,
    },
    destination: sideOf(listening, received),
    destinationRunningShare,
    ramIdentical,
  }
}

/** The command line of a side with its order. Its program is compiled if this one is. */
export function sideCommand(
  side: 'source' | 'destination' | 'receive' | 'send' | 'staged' | 'forwarder',
  order: object,
): string[] {
  const program = join(import.meta.dirname, 'sides', side + extname(import.meta.filename))
  return [process.execPath, program, JSON.stringify(order)]
}

function sideOf({ hugePageBytes, network }: SideReady, done: SideDone): Side {
  const { seconds, cpuSeconds, jsThreadCpuSeconds, guestResidentBytes, transportBytes } = done
  const measured = { seconds, cpuSeconds, jsThreadCpuSeconds, guestResidentBytes, transportBytes }
  return { ...measured, hugePageBytes, network }
}

/** Both; when a migration fails, each side blames the other, and a reader needs both sentences. */
export async function both<S, D>(source: Promise<S>, destination: Promise<D>): Promise<[S, D]> {
  const [sent, received] = await Promise.allSettled([source, destination])
  if (sent.status === 'fulfilled' && received.status === 'fulfilled') {
    return [sent.value, received.value]
  }
  const reasons = [sent, received].flatMap((side) =>
    side.status === 'rejected' ? [String(side.reason)] : [],
  )
  throw new Error(`the migration failed\n${reasons.join('\n')}`)
}
