// What a figure must be read with: the machine, the kernel's settings that move it, and the state
// of the source tree. Everything here is read-only and may be missing ("unknown").
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'

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

export function readEnvironment(): Environment {
  const status = git('status', '--porcelain')
  const transparentHugePages = read('/sys/kernel/mm/transparent_hugepage/enabled')
  const memlock = /^Max locked memory\s+(\S+)/m.exec(read('/proc/self/limits'))
  return {
    kernel: release(),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryBytes: totalmem(),
    interface: 'loopback',
    ...readNetworkSettings(),
    transparentHugePages: /\[(\w+)\]/.exec(transparentHugePages)?.[1] ?? 'unknown',
    memlockLimit: memlock?.[1] ?? 'unknown',
    node: process.version,
    gitRevision: git('rev-parse', '--short=12', 'HEAD') ?? 'unknown',
    gitDirty: status === undefined ? null : status !== '',
    loadAverage: read('/proc/loadavg').split(' ').slice(0, 3).join(' '),
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return 'unknown'
  }
}

function git(...args: string[]): string | undefined {
  try {
    return execFileSync('git', args, {
      cwd: import.meta.dirname,
      stdio: ['ignore', 'pipe', 'ignore'],
      encoding: 'utf8',
    }).trim()
  } catch {
    return undefined
  }
}
