// Judges the limits that zero-copy and the sockets of a migration meet.

import { HIGH_MAX_BYTES, HIGH_MIN_BYTES } from '../../schedule/adaptive-thresholds.ts'
import { lockedMemoryShareBytes } from '../../schedule/flush-policy.ts'
import type { Facts } from './facts.ts'
import { type Finding, orNull, showBytes } from './finding.ts'

/** What a source uses unless told otherwise (multifdChannels). */
const CHANNELS = 2
/** What each channel asks for on loopback, each way (native/channel/endpoint.cc). */
const LOOPBACK_BUFFER_BYTES = 1024 * 1024
/** The kernel's default until Linux 6.9. */
const OPTION_MEMORY_LEAST_BYTES = 20480
/** The kernel's own default maximum of tcp_wmem. */
const TCP_BUFFER_LEAST_BYTES = 4 * 1024 * 1024
const TEN_GBIT_BYTES_PER_SECOND = 10e9 / 8

export function judgeLimits(facts: Facts): Finding[] {
  return [
    ...lockedMemory(facts),
    ...optionMemory(facts),
    ...loopbackBuffers(facts),
    ...tcpBuffers(facts),
    ...congestionControl(facts),
  ]
}

function lockedMemory({ lockedMemoryBytes: limit }: Facts): Finding[] {
  if (limit === undefined) return []
  const about = {
    id: 'locked-memory',
    title: 'locked memory',
    value: showBytes(limit),
    details: { limitBytes: orNull(limit) },
  }
  if (limit === Number.POSITIVE_INFINITY) {
    const meaning = 'Zero-copy may pin what it needs, and guest memory can be registered.'
    return [{ ...about, status: 'ok', meaning }]
  }
  const fix =
    'ulimit -l unlimited; for a service LimitMEMLOCK=infinity; for a login memlock in ' +
    '/etc/security/limits.conf; for a container --ulimit memlock=-1'
  const share = lockedMemoryShareBytes({ lockedMemoryLimitBytes: limit, channels: CHANNELS })
  if (share < HIGH_MIN_BYTES) {
    const meaning = 'Too little for zero-copy: all pages are sent by copying.'
    return [{ ...about, status: 'warning', meaning, fix }]
  }
  const each = `Each of ${CHANNELS} channels has at most ${showBytes(Math.min(share, HIGH_MAX_BYTES))} unreleased`
  const guests = `only guests below ${showBytes(share * CHANNELS)} can have their memory registered`
  if (share >= HIGH_MAX_BYTES) {
    return [{ ...about, status: 'ok', meaning: `${each}, which is all they ever use; ${guests}.` }]
  }
  const meaning = `${each}; ${guests}. It is enough for a local network, not for a long one.`
  return [{ ...about, status: 'warning', meaning, fix }]
}

function optionMemory({ optionMemoryBytes: limit }: Facts): Finding[] {
  if (limit === undefined) return []
  const about = {
    id: 'option-memory',
    title: 'option memory',
    value: showBytes(limit),
    details: { limitBytes: limit },
  }
  if (limit >= OPTION_MEMORY_LEAST_BYTES) {
    const meaning = 'Room for the notifications of all zero-copy sends under way.'
    return [{ ...about, status: 'ok', meaning }]
  }
  return [
    {
      ...about,
      status: 'warning',
      meaning: 'Few zero-copy sends can be under way at a time: channels wait, or send plain.',
      fix: 'sysctl -w net.core.optmem_max=131072',
    },
  ]
}

function loopbackBuffers(facts: Facts): Finding[] {
  const { sendBufferMaxBytes: send, receiveBufferMaxBytes: receive } = facts
  if (send === undefined || receive === undefined) return []
  const about = {
    id: 'socket-buffers',
    title: 'socket buffers',
    value: `${showBytes(send)} out, ${showBytes(receive)} in`,
    details: { sendMaxBytes: send, receiveMaxBytes: receive },
  }
  if (Math.min(send, receive) >= LOOPBACK_BUFFER_BYTES) {
    const meaning = 'What channels ask for on loopback (1 MiB); on a network the kernel sizes them.'
    return [{ ...about, status: 'ok', meaning }]
  }
  return [
    {
      ...about,
      status: 'warning',
      meaning: 'On loopback, channels ask for 1 MiB and get less: slower within this machine only.',
      fix: 'sysctl -w net.core.wmem_max=1048576 net.core.rmem_max=1048576',
    },
  ]
}

function tcpBuffers({ tcpSendMaxBytes: send, tcpReceiveMaxBytes: receive }: Facts): Finding[] {
  if (send === undefined || receive === undefined) return []
  const roundTripMs = ((CHANNELS * Math.min(send, receive)) / TEN_GBIT_BYTES_PER_SECOND) * 1000
  const about = {
    id: 'tcp-buffers',
    title: 'TCP buffers',
    value: `up to ${showBytes(send)} out, ${showBytes(receive)} in`,
    details: { sendMaxBytes: send, receiveMaxBytes: receive },
    meaning:
      `${CHANNELS} channels between machines like this fill 10 Gbit/s up to a round trip of ` +
      `${roundTripMs.toFixed(1)} ms; more channels go further.`,
  }
  if (Math.min(send, receive) >= TCP_BUFFER_LEAST_BYTES) return [{ ...about, status: 'ok' }]
  const fix =
    'sysctl -w net.ipv4.tcp_wmem="4096 16384 4194304" net.ipv4.tcp_rmem="4096 131072 6291456"'
  return [{ ...about, status: 'warning', fix }]
}

function congestionControl({ congestionControl }: Facts): Finding[] {
  if (congestionControl === undefined) return []
  return [
    {
      id: 'congestion-control',
      title: 'congestion control',
      status: 'ok',
      value: congestionControl,
      details: { name: congestionControl },
      meaning: 'Each channel is a TCP connection of its own under it.',
    },
  ]
}
