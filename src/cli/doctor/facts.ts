// What is known of a machine, before anybody judges it: plain values, so that a test can make up
// any machine. `undefined` is a value that this machine does not tell.

import type { NativeIoUringAbilities, NativePathProbe } from '../../kit/native.ts'

export interface Facts {
  readonly platform: string
  readonly architecture: string
  /** The kernel's release, as uname(1) prints it. */
  readonly kernel: string
  /** Without the v. */
  readonly node: string
  /** The least version of Node that package.json asks for. */
  readonly nodeLeast: string
  readonly cpus: number
  readonly memoryTotalBytes: number
  /** What could be allocated without swapping. */
  readonly memoryAvailableBytes: number
  /** vm.overcommit_memory: 0 heuristic, 1 always, 2 never. */
  readonly overcommit: number | undefined
  /** The setting in force: always, madvise or never. */
  readonly transparentHugePages: string | undefined
  /** Why the addon could not be loaded, a sentence; undefined when it was. */
  readonly addonFailure: string | undefined
  /** Undefined without the addon. */
  readonly ioUring: NativeIoUringAbilities | undefined
  /** kernel.io_uring_disabled: 0, 1 or 2; Linux 6.6. */
  readonly ioUringDisabled: number | undefined
  /** What tracking one page with userfaultfd and PAGEMAP_SCAN gave; undefined without the addon. */
  readonly tracking: { readonly there: boolean; readonly reason: string } | undefined
  /** Empty where nothing was tried. */
  readonly paths: readonly PathFacts[]
  /** What this user may pin: RLIMIT_MEMLOCK, or Infinity. */
  readonly lockedMemoryBytes: number | undefined
  /** net.core.optmem_max. */
  readonly optionMemoryBytes: number | undefined
  /** net.core.wmem_max and rmem_max. */
  readonly sendBufferMaxBytes: number | undefined
  readonly receiveBufferMaxBytes: number | undefined
  /** The last of net.ipv4.tcp_wmem and tcp_rmem: how far the kernel grows a socket's buffer. */
  readonly tcpSendMaxBytes: number | undefined
  readonly tcpReceiveMaxBytes: number | undefined
  readonly congestionControl: string | undefined
}

export interface PathFacts {
  readonly name: string
  readonly loopback: boolean
  /** It has a device behind it, unlike veth, bridges, tunnels; undefined without sysfs. */
  readonly hardware: boolean | undefined
  /** Packet sockets (tcpdump) that see all that goes out on it. */
  readonly packetSockets: number
  readonly probe: NativePathProbe
}
