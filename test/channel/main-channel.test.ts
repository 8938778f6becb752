// The main channel's socket: what it makes of the ways in which a peer's stream can end. Who owns
// the guest hangs on the difference between an orderly end and a reset.

import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from 'vitest'
import { MainChannel } from '../../src/channel/main-channel.ts'
import { parseUri } from '../../src/channel/uri.ts'
import { deferred } from '../../src/kit/deferred.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'

let before: Held
let scratch = ''
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-main-'))
  before = held()
})
afterEach(() => {
  rmSync(scratch, { recursive: true, force: true })
  expectNothingLeft(before)
})

/** What is heard of a peer that does this when it was written to. */
async function heardOf(act: (peer: Socket) => void, path?: string): Promise<string[]> {
  const server = createServer({ allowHalfOpen: true }, (peer) => {
    peer.on('error', () => {})
    peer.once('data', () => act(peer))
  })
  server.listen(path ?? { port: 0, host: '127.0.0.1' })
  await once(server, 'listening')
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  const uri = path === undefined ? `tcp:127.0.0.1:${port}` : `unix:${path}`
  const heard: string[] = []
  const over = deferred<void>()
  const main = await MainChannel.connect(
    parseUri(uri),
    { timeoutMs: 5000, signal: new AbortController().signal },
    {
      data: (bytes) => void heard.push(Buffer.from(bytes).toString()),
      ended: () => {
        heard.push('ended')
        over.resolve()
      },
      failed: ({ errno }) => {
        heard.push(`failed ${errno}`)
        over.resolve()
      },
    },
  )
  main.resume()
  await main.write(Buffer.from('ping'))
  await over.promise
  await main.close()
  await new Promise((resolve) => server.close(resolve))
  return heard
}

/** Both reach this side before it looks. */
const answerAnd =
  (end: (peer: Socket) => void) =>
  (peer: Socket): void => {
    peer.write('pong')
    end(peer)
  }

it.each([
  ['an orderly end', (peer: Socket): void => void peer.end(), 'ended'],
  ['the end of both directions', (peer: Socket): void => void peer.destroy(), 'ended'],
  ['a reset', (peer: Socket): void => void peer.resetAndDestroy(), 'failed ECONNRESET'],
] as const)('an answer and %s in one breath are told apart', async (_name, end, last) => {
  expect(await heardOf(answerAnd(end))).toEqual(['pong', last])
})

it('a reset that comes alone is one, too', async () => {
  expect(await heardOf((peer) => void peer.resetAndDestroy())).toEqual(['failed ECONNRESET'])
})

it('a UNIX socket ends in order, as a network cannot break it', async () => {
  const end = answerAnd((peer) => void peer.destroy())
  expect(await heardOf(end, join(scratch, 'main.sock'))).toEqual(['pong', 'ended'])
})

it.each(['tcp', 'unix'])(
  'over %s, closes behind the last word, and loses nothing',
  async (kind) => {
    const path = join(scratch, 'last-word')
    const bytes = Buffer.alloc(3_000_000, 'x')
    const got = deferred<number>()
    const ends = deferred<void>()
    // As a destination that says its last word and does not end its stream.
    const server = createServer({ allowHalfOpen: true }, (peer) => {
      let received = 0
      peer.on('error', (error) => got.reject(error))
      peer.once('data', () => peer.write('last word'))
      peer.on('data', (part) => {
        received += part.length
      })
      peer.on('end', () => {
        got.resolve(received)
        void ends.promise.then(() => peer.destroy())
      })
    })
    server.listen(kind === 'unix' ? path : { port: 0, host: '127.0.0.1' })
    await once(server, 'listening')
    const address = server.address()
    const port = typeof address === 'object' ? address?.port : undefined
    const lastWord = deferred<void>()
    const main = await MainChannel.connect(
      parseUri(kind === 'unix' ? `unix:${path}` : `tcp:127.0.0.1:${port}`),
      { timeoutMs: 5000, signal: new AbortController().signal },
      { data: () => lastWord.resolve(), ended: () => {}, failed: () => {} },
    )
    main.resume()
    void main.write(bytes)
    await lastWord.promise
    // Without a clock nothing but our own end of stream can end it: the peer's comes later.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    await main.close({ awaitPeer: false })
    expect(await got.promise).toBe(bytes.length)
    ends.resolve()
    await new Promise((resolve) => server.close(resolve))
  },
)
