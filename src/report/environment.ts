// What a figure must be read with: the machine, the kernel's settings that move it, and the state
// of the source tree. Everything here is read-only and may be missing ("unknown").
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { dirname, join } from 'node:path'

/** Settings that each network namespace has for itself. */
export interface NetworkSettings {
  readonly congestionControl: string
  readonly optmemMaxBytes: string
}

export interface Environment extends NetworkSettings {
  readonly kernel: string
  readonly cpu: string
  readonly cores: number
  /** Bytes of RAM. */
  readonly memoryBytes: number
  /** What the bytes travel over. */
  readonly interface: string
  /** The setting in force of transparent huge pages: always, madvise or never. */
  readonly transparentHugePages: string
  /** `RLIMIT_MEMLOCK`, soft, as the kernel prints it (bytes or unlimited). */
  readonly memlockLimit: string
  readonly node: string
  /** Of this package. */
  readonly version: string
  readonly gitRevision: string
  /** True when the tree differs from the revision; null when git cannot tell. */
  readonly gitDirty: boolean | null
  readonly loadAverage: string
  /** Where one took part: its version. */
  readonly qemu?: string
}

/** Of the network namespace that this process runs in. */
export function readNetworkSettings(): NetworkSettings {
  return {
    congestionControl: read('/proc/sys/net/ipv4/tcp_congestion_control'),
    optmemMaxBytes: read('/proc/sys/net/core/optmem_max'),
  }
}

/** `over`: what the bytes travel over. */
export function readEnvironment(over: string): Environment {
  const { version, revision, dirty } = readRevision()
  const transparentHugePages = read('/sys/kernel/mm/transparent_hugepage/enabled')
  const memlock = /^Max locked memory\s+(\S+)/m.exec(read('/proc/self/limits'))
  return {
    kernel: release(),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryBytes: totalmem(),
    interface: over,
    ...readNetworkSettings(),
    transparentHugePages: /\[(\w+)\]/.exec(transparentHugePages)?.[1] ?? 'unknown',
    memlockLimit: memlock?.[1] ?? 'unknown',
    node: process.version,
    version,
    gitRevision: revision,
    gitDirty: dirty,
    loadAverage: read('/proc/loadavg').split(' ').slice(0, 3).join(' '),
  }
}

/** An installed package lies in no repository, or in that of whoever installed it: not ours. */
function readRevision(): { version: string; revision: string; dirty: boolean | null } {
  const root = packageRoot(import.meta.dirname)
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const top = git(root, 'rev-parse', '--show-toplevel')
  if (top === undefined || realpathSync(top) !== realpathSync(root)) {
    return { version, revision: 'unknown', dirty: null }
  }
  const revision = git(root, 'rev-parse', '--short=12', 'HEAD') ?? 'unknown'
  const status = git(root, 'status', '--porcelain')
  return { version, revision, dirty: status === undefined ? null : status !== '' }
}

/** From the sources as from the compiled tree, which is a level deeper. */
function packageRoot(folder: string): string {
  return existsSync(join(folder, 'package.json')) ? folder : packageRoot(dirname(folder))
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return 'unknown'
  }
}

function git(cwd: string, ...args: string[]): string | undefined {
  try {
    return execFileSync('git', args, {
      cwd,
      stdio: ['ignore', 'pipe', 'ignore'],
      encoding: 'utf8',
    }).trim()
  } catch {
    return undefined
  }
}
