// What a migration travels over: loopback, or the veth rig, where zero-copy sends are really not
// copied. A path is where the two sides run and where the destination listens, nothing more.
import { Option } from 'commander'
import type { Skipped } from './comparison.ts'
import { Rig } from './rig.ts'

export type PathName = 'lo' | 'rig'

export interface Path {
  readonly name: PathName
  /** For a report. */
  readonly description: string
  readonly source: Place
  readonly destination: Place
}

interface Place {
  /** IPv4. */
  readonly address: string
  /** The same program and arguments, run at this place. */
  command(argv: readonly string[]): string[]
}

const HERE: Place = { address: '127.0.0.1', command: (argv) => [...argv] }
export const LOOPBACK: Path = {
  name: 'lo',
  description: 'loopback',
  source: HERE,
  destination: HERE,
}

/** `--path`, for all who measure on both. */
export function pathOption(): Option {
  return new Option('--path <name>', 'measure on this path only').choices(['lo', 'rig'])
}

/** The paths of one comparison; the rig is taken down with it. */
export class Paths implements AsyncDisposable {
  readonly paths: readonly Path[]
  /** For its link's rate; undefined where there is none. */
  readonly rig: Rig | undefined
  /** What is missing, and why. */
  readonly skipped: readonly Skipped[]

  private constructor(lo: boolean, rig: Rig | undefined, skipped: readonly Skipped[]) {
    this.paths = [...(lo ? [LOOPBACK] : []), ...(rig ? [rigPath(rig)] : [])]
    this.rig = rig
    this.skipped = skipped
  }

  /** Opens what can be had of loopback and rig; `only` leaves the other one out. */
  static async open(only: PathName | undefined): Promise<Paths> {
    const left = (what: PathName) => ({ what, reason: `not asked for: --path ${only}` })
    if (only === 'lo') return new Paths(true, undefined, [left('rig')])
    const reason = await Rig.unavailable()
    if (reason !== undefined && only === 'rig') throw new Error(reason)
    if (reason !== undefined) return new Paths(true, undefined, [{ what: 'rig', reason }])
    const rig = await Rig.create()
    return only === 'rig' ? new Paths(false, rig, [left('lo')]) : new Paths(true, rig, [])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rig?.close()
  }
}

function rigPath({ source, destination }: Rig): Path {
  const description = `veth rig (${source.device} to ${destination.device} with XDP)`
  return { name: 'rig', description, source, destination }
}
