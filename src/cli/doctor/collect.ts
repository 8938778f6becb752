// Collects the facts of this machine. Works without the addon, on any platform: what cannot be read
// is undefined. Changes nothing; with `probePaths` it sends one datagram per network interface.

import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism, freemem, networkInterfaces, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { lockedMemoryLimitBytes } from '../../channel/locked-memory.ts'
import { GuestMemory } from '../../guest/guest-memory.ts'
import { MultifdError } from '../../kit/errors.ts'
import { PAGE_SIZE_BYTES } from '../../kit/limits.ts'
import { checked, native, packageRoot } from '../../kit/native.ts'
import type { Facts, PathFacts } from './facts.ts'

/** ETH_P_ALL, as /proc/net/packet prints it: such a socket sees what goes out as well. */
const ALL_PROTOCOLS = '0003'

export async function collectFacts({ probePaths }: { probePaths: boolean }): Promise<Facts> {
  const addonFailure = whyNoAddon()
  const loaded = addonFailure === undefined
  return {
    platform: process.platform,
    architecture: process.arch,
    kernel: release(),
    node: process.versions.node,
    nodeLeast: nodeLeast(),
    cpus: availableParallelism(),
    memoryTotalBytes: totalmem(),
    memoryAvailableBytes: freemem(),
    overcommit: numberIn('/proc/sys/vm/overcommit_memory'),
    transparentHugePages: inForce(read('/sys/kernel/mm/transparent_hugepage/enabled')),
    addonFailure,
    ioUring: loaded ? checked(await native().probeIoUring(), 'probing io_uring failed') : undefined,
    ioUringDisabled: numberIn('/proc/sys/kernel/io_uring_disabled'),
    tracking: loaded ? await tryTracking() : undefined,
    paths: loaded && probePaths ? await tryPaths() : [],
    lockedMemoryBytes: existsSync('/proc/self/limits') ? lockedMemoryLimitBytes() : undefined,
    optionMemoryBytes: numberIn('/proc/sys/net/core/optmem_max'),
    sendBufferMaxBytes: numberIn('/proc/sys/net/core/wmem_max'),
    receiveBufferMaxBytes: numberIn('/proc/sys/net/core/rmem_max'),
    tcpSendMaxBytes: numberIn('/proc/sys/net/ipv4/tcp_wmem', 2),
    tcpReceiveMaxBytes: numberIn('/proc/sys/net/ipv4/tcp_rmem', 2),
    congestionControl: read('/proc/sys/net/ipv4/tcp_congestion_control'),
  }
}

function whyNoAddon(): string | undefined {
  try {
    native()
    return undefined
  } catch (error) {
    if (!(error instanceof MultifdError)) throw error
    const cause = error.cause instanceof Error ? ` (${firstLine(error.cause.message)})` : ''
    return `${error.message}${cause}`
  }
}

// The tracker of a migration over one page, armed and read: the kernel's parts are only known to
// work together by using them.
async function tryTracking(): Promise<{ there: boolean; reason: string }> {
  const about = 'tracking one page failed'
  try {
    await using memory = GuestMemory.allocate('doctor', PAGE_SIZE_BYTES, { hugePages: false })
    const ram = checked(native().createRamState(memory.native, 'userfaultfd'), about)
    try {
      checked(await ram.start(), about)
      memory.view('doctor')[0] = 1
      const pages = checked(await ram.beginRound(), about)
      const reason = pages === 1 ? '' : `one page was written and ${pages} were reported`
      return { there: pages === 1, reason }
    } finally {
      ram.close()
    }
  } catch (error) {
    if (!(error instanceof MultifdError)) throw error
    return { there: false, reason: error.message.replace(`${about}: `, '') }
  }
}

async function tryPaths(): Promise<PathFacts[]> {
  const listeners = packetSocketsByIndex(read('/proc/net/packet') ?? '')
  return Promise.all(
    interfaceNames(networkInterfaces()).map(async (name) => {
      const index = numberIn(join('/sys/class/net', name, 'ifindex'))
      const onAll = listeners.get(0) ?? 0
      return {
        name,
        loopback: networkInterfaces()[name]?.some(({ internal }) => internal) ?? false,
        hardware: index === undefined ? undefined : existsSync(`/sys/class/net/${name}/device`),
        packetSockets: onAll + (index === undefined ? 0 : (listeners.get(index) ?? 0)),
        probe: checked(await native().probePath(name), `probing ${name} failed`),
      }
    }),
  )
}

/**
 * The interfaces that a migration could travel over: up, and with an address beyond link-local ones
 * (every veth of a container host has one of those). `name:label` is an address of `name`.
 */
export function interfaceNames(interfaces: ReturnType<typeof networkInterfaces>): string[] {
  const named = Object.entries(interfaces)
    .filter(([, addresses = []]) => addresses.some(({ address }) => !/^fe[89ab]/i.test(address)))
    .map(([name]) => name.replace(/:.*/, ''))
  return [...new Set(named)]
}

/** Packet sockets for all protocols in /proc/net/packet, by interface; 0 is every interface. */
export function packetSocketsByIndex(table: string): Map<number, number> {
  const counts = new Map<number, number>()
  for (const line of table.split('\n').slice(1)) {
    const [, , , protocol, index = ''] = line.trim().split(/\s+/)
    if (protocol !== ALL_PROTOCOLS) continue
    counts.set(Number(index), (counts.get(Number(index)) ?? 0) + 1)
  }
  return counts
}

function nodeLeast(): string {
  const { engines } = JSON.parse(read(join(packageRoot(), 'package.json')) ?? '{}') as {
    engines?: { node?: string }
  }
  return /\d+(?:\.\d+)*/.exec(engines?.node ?? '')?.[0] ?? '0'
}

/** 'always [madvise] never' -> 'madvise' */
function inForce(setting: string | undefined): string | undefined {
  return /\[(\w+)\]/.exec(setting ?? '')?.[1]
}

/** The whole number that stands at this place of the file, counted from 0. */
function numberIn(path: string, place = 0): number | undefined {
  const word = read(path)?.split(/\s+/)[place]
  return word !== undefined && /^\d+$/.test(word) ? Number(word) : undefined
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return undefined
  }
}

const firstLine = (text: string): string => text.split('\n')[0] ?? ''
