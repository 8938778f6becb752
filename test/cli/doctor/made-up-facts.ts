// A machine on which nothing is left to wish for; tests take things away from it.

import type { Facts, PathFacts } from '../../../src/cli/doctor/facts.ts'
import type { NativeIoUringAbilities, NativePathProbe } from '../../../src/kit/native.ts'

const there = { there: true, reason: '' }

export const ALL_ABILITIES: NativeIoUringAbilities = {
  ioUring: there,
  sendZeroCopy: there,
  sendmsgZeroCopy: there,
  usageReport: there,
  fixedSend: there,
  fixedSendmsg: there,
  cloneBuffers: there,
  setupFlags: 0,
}

/** No ability but those named; all others for this reason. */
export function abilitiesWithout(
  reason: string,
  kept: readonly (keyof NativeIoUringAbilities)[] = [],
): NativeIoUringAbilities {
  const names = Object.keys(ALL_ABILITIES) as (keyof NativeIoUringAbilities)[]
  const lost = names.filter((name) => name !== 'setupFlags' && !kept.includes(name))
  const gone = Object.fromEntries(lost.map((name) => [name, { there: false, reason }]))
  return { ...ALL_ABILITIES, ...gone }
}

export function path(
  name: string,
  verdict: NativePathProbe['verdict'],
  more: Partial<PathFacts> & { reason?: string } = {},
): PathFacts {
  const { reason = '', ...facts } = more
  const probe = { verdict, reason, payloadBytes: 1452 }
  return {
    name,
    loopback: name === 'lo',
    hardware: name !== 'lo',
    packetSockets: 0,
    probe,
    ...facts,
  }
}

export const GOOD_MACHINE: Facts = {
  platform: 'linux',
  architecture: 'x64',
  kernel: '6.18.0',
  node: '22.11.0',
  nodeLeast: '20.17',
  cpus: 16,
  memoryTotalBytes: 64 * 2 ** 30,
  memoryAvailableBytes: 48 * 2 ** 30,
  overcommit: 0,
  transparentHugePages: 'madvise',
  addonFailure: undefined,
  ioUring: ALL_ABILITIES,
  ioUringDisabled: 0,
  tracking: there,
  paths: [path('lo', 'copied'), path('eth0', 'not-copied')],
  lockedMemoryBytes: Number.POSITIVE_INFINITY,
  optionMemoryBytes: 131072,
  sendBufferMaxBytes: 4 * 2 ** 20,
  receiveBufferMaxBytes: 4 * 2 ** 20,
  tcpSendMaxBytes: 4 * 2 ** 20,
  tcpReceiveMaxBytes: 6 * 2 ** 20,
  congestionControl: 'cubic',
}
