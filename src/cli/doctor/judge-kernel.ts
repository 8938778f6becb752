// Judges what the kernel can do: io_uring, tracking of guest writes, and zero-copy on each network
// interface. All of it was tried, nothing is inferred from a version.

import type { NativeAbility, NativeIoUringAbilities } from '../../kit/native.ts'
import type { Facts, PathFacts } from './facts.ts'
import { type Finding, sentence } from './finding.ts'

export function judgeKernel(facts: Facts): Finding[] {
  const { ioUring } = facts
  return [
    ...tracking(facts),
    ...(ioUring === undefined ? [] : judgeIoUring(ioUring, facts.ioUringDisabled)),
    ...facts.paths.map(zeroCopyOn),
  ]
}

function tracking({ tracking, architecture }: Facts): Finding[] {
  if (tracking === undefined) return []
  const about = {
    id: 'dirty-tracking',
    title: 'tracking of writes',
    details: { userfaultfd: tracking.there },
  }
  if (tracking.there) {
    const value = 'userfaultfd, PAGEMAP_SCAN'
    const meaning = 'The kernel tells which pages the guest wrote; each round costs what is dirty.'
    return [{ ...about, status: 'ok', value, meaning }]
  }
  const since = architecture === 'arm64' ? '6.10' : '6.7'
  return [
    {
      ...about,
      status: 'missing',
      value: 'by hashes',
      meaning:
        'Each round reads all populated memory, and sends private copies of pages, without ' +
        `zero-copy. ${sentence(tracking.reason)}.`,
      fix: `Linux ${since} or newer; a container's seccomp profile must allow userfaultfd; or hand in a DirtyLog`,
    },
  ]
}

/** The first that is missing says why: the later ones build on it. */
function firstMissing(abilities: readonly NativeAbility[]): NativeAbility | undefined {
  return abilities.find(({ there }) => !there)
}

function judgeIoUring(found: NativeIoUringAbilities, disabled: number | undefined): Finding[] {
  const { ioUring, sendZeroCopy, sendmsgZeroCopy, usageReport } = found
  const { fixedSend, fixedSendmsg, cloneBuffers } = found
  const rings = {
    id: 'io-uring',
    title: 'io_uring',
    details: { there: ioUring.there, setting: disabled ?? null, setupFlags: found.setupFlags },
  }
  if (!ioUring.there) {
    return [
      {
        ...rings,
        status: 'missing',
        value: 'not to be had',
        meaning: `Channels send with sendmsg instead, zero-copy included. ${sentence(ioUring.reason)}.`,
        fix: ringFix(disabled),
      },
    ]
  }
  const zeroCopy = firstMissing([sendmsgZeroCopy, sendZeroCopy, usageReport])
  const registered = firstMissing([fixedSendmsg, fixedSend, usageReport])
  return [
    { ...rings, status: 'ok', value: 'usable', meaning: "To be had with engine: 'io-uring'." },
    {
      id: 'io-uring-zero-copy',
      title: 'io_uring zero-copy',
      ...(zeroCopy === undefined
        ? verdict(
            'ok',
            'SEND_ZC, SENDMSG_ZC, usage',
            'It reports what the kernel copied after all.',
          )
        : verdict(
            'missing',
            'incomplete',
            `Such channels send plain. ${sentence(zeroCopy.reason)}.`,
          )),
      ...(zeroCopy === undefined ? {} : { fix: 'Linux 6.2 or newer; or stay with sendmsg' }),
      details: {
        sendZeroCopy: sendZeroCopy.there,
        sendmsgZeroCopy: sendmsgZeroCopy.there,
        usageReport: usageReport.there,
      },
    },
    {
      id: 'io-uring-registered-memory',
      title: 'registered memory',
      ...judgeRegistered(registered, cloneBuffers),
      details: {
        fixedSend: fixedSend.there,
        fixedSendmsg: fixedSendmsg.there,
        cloneBuffers: cloneBuffers.there,
      },
    },
  ]
}

function judgeRegistered(
  registered: NativeAbility | undefined,
  cloneBuffers: NativeAbility,
): Pick<Finding, 'status' | 'value' | 'meaning' | 'fix'> {
  if (registered !== undefined) {
    const meaning = `Zero-copy sends pin their pages anew each time. ${sentence(registered.reason)}.`
    return { ...verdict('missing', 'not to be had', meaning), fix: 'Linux 6.15 or newer' }
  }
  const gain = 'Zero-copy sends need not pin pages, where the VMM declares discards: false'
  if (cloneBuffers.there) return verdict('ok', 'SENDMSG_ZC, shared by channels', `${gain}.`)
  const meaning = `${gain}; but each channel registers all memory. ${sentence(cloneBuffers.reason)}.`
  return { ...verdict('warning', 'not shared by channels', meaning), fix: 'Linux 6.12 or newer' }
}

function ringFix(disabled: number | undefined): string {
  if (disabled === 2) return 'sysctl -w kernel.io_uring_disabled=0'
  if (disabled === 1) {
    return 'sysctl -w kernel.io_uring_disabled=0, or sysctl -w kernel.io_uring_group=<a group of this user>'
  }
  return 'in a container: a seccomp profile that allows io_uring_setup, io_uring_enter, io_uring_register'
}

function zeroCopyOn(path: PathFacts): Finding {
  const { name, loopback, hardware, packetSockets, probe } = path
  return {
    id: `zero-copy:${name}`,
    title: `zero-copy on ${name}`,
    ...judgePath(path),
    details: {
      interface: name,
      verdict: probe.verdict,
      payloadBytes: probe.payloadBytes,
      loopback,
      hardware: hardware ?? null,
      packetSockets,
    },
  }
}

function judgePath(path: PathFacts): Pick<Finding, 'status' | 'value' | 'meaning' | 'fix'> {
  const { name, loopback, probe } = path
  switch (probe.verdict) {
    case 'not-copied':
      return verdict(
        'ok',
        'not copied',
        `Pages left through ${name} as they lie. What lies behind it was not tried.`,
      )
    case 'copied':
      if (!loopback) return judgeCopied(path)
      return verdict(
        'ok',
        'copied, as on every Linux',
        'Pages to this machine are spliced instead, and so not copied by the sender.',
      )
    case 'unanswered':
      return verdict(
        'warning',
        'not known',
        `The driver of ${name} holds on to what it sent (${probe.reason}): zero-copy may stall at its ` +
          'marks. Each channel measures it, and stops asking for it.',
      )
    case 'refused':
      return verdict('warning', 'not known', `It could not be tried: ${probe.reason}.`)
  }
}

function judgeCopied({ name, hardware, packetSockets }: PathFacts) {
  const meaning = 'Zero-copy costs more than it gains; zeroCopy: auto notices and sends plain.'
  if (packetSockets > 0) {
    const why = `${packetSockets} packet sockets (tcpdump is one) listen on it and make the kernel copy.`
    return { ...verdict('warning', 'copied', `${why} ${meaning}`), fix: 'see who: ss -0 -p' }
  }
  if (hardware === false) {
    const why = 'The kernel copies where such an interface (veth, tun) leads to this machine.'
    return { ...verdict('warning', 'copied', `${why} ${meaning}`), fix: 'migrate over a real NIC' }
  }
  const fix = `ethtool -K ${name} sg on tx on (see ethtool -k ${name})`
  return { ...verdict('warning', 'copied', meaning), fix }
}

function verdict(status: Finding['status'], value: string, meaning: string) {
  return { status, value, meaning }
}
