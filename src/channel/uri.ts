// The addresses a migration takes: `tcp:HOST:PORT`, `tcp:[IPv6]:PORT` and `unix:PATH`. Parsing and
// name resolution; no sockets.

import { lookup } from 'node:dns/promises'
import { networkInterfaces } from 'node:os'
import { MultifdError } from '../kit/errors.ts'
import type { NativeEndpoint } from '../kit/native.ts'
import { requireString } from '../kit/options.ts'

/** A parsed URI. TCP hosts may be names. */
export type Uri = { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string }

/** @throws TypeError with the accepted forms if `text` is none of them. */
export function parseUri(text: string): Uri {
  requireString('a migration URI', text)
  const unix = /^unix:(.+)$/.exec(text)
  if (unix?.[1] !== undefined) return { kind: 'unix', path: unix[1] }
  const tcp = /^tcp:(?:\[([^\]]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text)
  const port = Number(tcp?.[3])
  if (tcp !== null && port <= 65535) {
    return { kind: 'tcp', host: tcp[1] ?? (tcp[2] || '0.0.0.0'), port }
  }
  throw new TypeError(
    `"${text}" is not a migration URI; expected tcp:HOST:PORT, tcp:[IPv6]:PORT or unix:PATH`,
  )
}

/** The numeric address of a URI, and a check that nothing leaves this machine unasked. */
export async function resolveUri(
  uri: Uri,
  options: { allowPlaintext: boolean },
): Promise<NativeEndpoint> {
  if (uri.kind === 'unix') return { path: uri.path }
  let host: string
  try {
    host = (await lookup(uri.host)).address
  } catch (cause) {
    throw new MultifdError('ERR_MULTIFD_CHANNEL', `the host "${uri.host}" could not be resolved`, {
      cause,
    })
  }
  if (!isLoopback(host) && !options.allowPlaintext) {
    throw new MultifdError(
      'ERR_MULTIFD_UNSUPPORTED',
      `${host} is not on this machine, and a migration is not encrypted: whoever can listen in reads ` +
        'the guest, and whoever can connect writes it; on a network you trust, say allowPlaintext: true',
    )
  }
  return { host, port: uri.port }
}

/** The URI of an endpoint, for people and for the other side. */
export function formatUri(endpoint: NativeEndpoint): string {
  if (endpoint.path !== undefined) return `unix:${endpoint.path}`
  const host = endpoint.host?.includes(':') ? `[${endpoint.host}]` : endpoint.host
  return `tcp:${host}:${endpoint.port}`
}

/**
 * What lies between here and an endpoint. The kernel takes an address of this machine's own
 * interfaces over loopback, too; there it copies what was sent with zero-copy.
 */
export function pathTo(endpoint: NativeEndpoint): 'unix' | 'loopback' | 'network' {
  if (endpoint.path !== undefined) return 'unix'
  const address = (endpoint.host ?? '').replace(/%.*$/, '').replace(/^::ffff:(?=\d+\.)/i, '')
  if (isLoopback(address) || address === '0.0.0.0' || address === '::') return 'loopback'
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? [])
  return own.some((known) => known.address === address) ? 'loopback' : 'network'
}

function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.')
}
