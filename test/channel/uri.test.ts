// URIs: what is accepted, what is refused, and that nothing leaves this machine unasked.

import { networkInterfaces } from 'node:os'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { formatUri, parseUri, pathTo, resolveUri } from '../../src/channel/uri.ts'
import { failure } from '../support/migration.ts'

describe('parseUri', () => {
  it.each([
    ['tcp:10.0.0.2:4444', { kind: 'tcp', host: '10.0.0.2', port: 4444 }],
    ['tcp:host.example:0', { kind: 'tcp', host: 'host.example', port: 0 }],
    ['tcp:[::1]:65535', { kind: 'tcp', host: '::1', port: 65535 }],
    ['tcp:[fe80::1%eth0]:1', { kind: 'tcp', host: 'fe80::1%eth0', port: 1 }],
    ['tcp::4444', { kind: 'tcp', host: '0.0.0.0', port: 4444 }],
    ['unix:/run/m.sock', { kind: 'unix', path: '/run/m.sock' }],
    ['unix:relative:with:colons', { kind: 'unix', path: 'relative:with:colons' }],
  ])('understands %s', (text, expected) => {
    expect(parseUri(text)).toEqual(expected)
  })

  it.each([
    '',
    'tcp:',
    'tcp:host',
    'tcp:host:',
    'tcp:host:port',
    'tcp:host:65536',
    'tcp:host:-1',
    'tcp:::1:4444',
    'tcp:[::1:4444',
    'tcp:[]:4444',
    'tcp:host:1 ',
    'unix:',
    'fd:3',
    'exec:cat',
    'TCP:host:1',
    'host:4444',
  ])('refuses "%s", and says what it takes', (text) => {
    expect(() => parseUri(text)).toThrow(TypeError)
    expect(() => parseUri(text)).toThrow(
      `"${text}" is not a migration URI; expected tcp:HOST:PORT, tcp:[IPv6]:PORT or unix:PATH`,
    )
  })

  it('gives a value or a TypeError for every text, and values survive formatting', () => {
    const text = fc.oneof(
      fc.string(),
      fc.string().map((rest) => `tcp:${rest}`),
      fc.tuple(fc.ipV4(), fc.nat(65535)).map(([host, port]) => `tcp:${host}:${port}`),
      fc.tuple(fc.ipV6(), fc.nat(65535)).map(([host, port]) => `tcp:[${host}]:${port}`),
    )
    fc.assert(
      fc.property(text, (given) => {
        try {
          const uri = parseUri(given)
          expect(parseUri(formatUri(uri))).toEqual(uri)
        } catch (error) {
          expect(error).toBeInstanceOf(TypeError)
        }
      }),
    )
  })
})

describe('resolveUri', () => {
  const here = { allowPlaintext: false }

  it.each(['tcp:127.0.0.1:1', 'tcp:127.9.9.9:1', 'tcp:[::1]:1', 'tcp:localhost:1', 'unix:/x'])(
    'allows %s: it is this machine',
    async (text) => {
      await expect(resolveUri(parseUri(text), here)).resolves.toBeDefined()
    },
  )

  it.each(['tcp:10.0.0.2:1', 'tcp::1', 'tcp:0.0.0.0:1', 'tcp:[::]:1', 'tcp:[2001:db8::1]:1'])(
    'refuses %s unless allowPlaintext says so',
    async (text) => {
      const error = await failure(resolveUri(parseUri(text), here))
      expect(error.code).toBe('ERR_MULTIFD_UNSUPPORTED')
      expect(error.message).toContain('allowPlaintext: true')
      await expect(resolveUri(parseUri(text), { allowPlaintext: true })).resolves.toMatchObject({
        port: 1,
      })
    },
  )

  it('names a host that does not resolve', async () => {
    const error = await failure(resolveUri(parseUri('tcp:no-such-host.invalid:1'), here))
    expect(error.code).toBe('ERR_MULTIFD_CHANNEL')
    expect(error.message).toContain('"no-such-host.invalid"')
    expect(error.cause).toBeDefined()
  })
})

describe('pathTo', () => {
  it.each(['127.0.0.1', '127.9.9.9', '::1', '0.0.0.0', '::', '::ffff:127.0.0.1'])(
    'is loopback to %s',
    (host) => {
      expect(pathTo({ host, port: 1 })).toBe('loopback')
    },
  )

  it('is loopback to every address of our own interfaces', () => {
    const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? [])
    for (const { address } of own) expect(pathTo({ host: address, port: 1 })).toBe('loopback')
    for (const { address } of own.filter(({ family }) => family === 'IPv6')) {
      expect(pathTo({ host: `${address}%lo`, port: 1 })).toBe('loopback')
    }
  })

  it('is the network to any other, and unix to a path', () => {
    for (const host of ['192.0.2.1', '2001:db8::1', '::ffff:192.0.2.1', 'fe80::1234%eth9']) {
      expect(pathTo({ host, port: 1 })).toBe('network')
    }
    expect(pathTo({ path: '/run/m.sock' })).toBe('unix')
  })
})
