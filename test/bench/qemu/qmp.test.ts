// The QMP client against a server of ours: answers by id, refusals, events, lines in pieces, and
// connections that end or say nothing.
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { describe, expect, it, onTestFinished } from 'vitest'
import { QmpClient, QmpError, type QmpOpening } from '../../../bench/qemu/qmp.ts'

const GREETING = '{"QMP": {"version": {}, "capabilities": []}}\r\n'

interface Request {
  readonly execute: string
  readonly arguments: Record<string, unknown>
  readonly id: number
}

class Peer {
  readonly socket: Socket
  readonly #lines: AsyncIterator<string>

  constructor(socket: Socket) {
    this.socket = socket
    this.#lines = createInterface({ input: socket })[Symbol.asyncIterator]()
    socket.on('error', () => {})
  }

  async request(): Promise<Request> {
    return JSON.parse((await this.#lines.next()).value)
  }

  say(line: object): void {
    this.socket.write(`${JSON.stringify(line)}\r\n`)
  }
}

/** A peer that has not said anything yet, and a client that waits for its greeting. */
async function pair(opening: QmpOpening = {}) {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const ours = connect(port, '127.0.0.1')
  const [accepted] = (await once(server, 'connection')) as [Socket]
  server.close()
  const peer = new Peer(accepted)
  onTestFinished(() => {
    ours.destroy()
    accepted.destroy()
  })
  return { peer, opening: QmpClient.open(ours, opening) }
}

async function opened(opening: QmpOpening = {}) {
  const { peer, opening: client } = await pair(opening)
  peer.socket.write(GREETING)
  const { execute, id } = await peer.request()
  expect(execute).toBe('qmp_capabilities')
  peer.say({ return: {}, id })
  return { peer, client: await client }
}

describe('a QMP client', () => {
  it('gives each command its own answer, whatever their order', async () => {
    const { peer, client } = await opened()
    const first = client.execute('first', { a: 1 })
    const second = client.execute('second')
    const [one, two] = [await peer.request(), await peer.request()]
    expect(one).toMatchObject({ execute: 'first', arguments: { a: 1 } })
    peer.say({ return: 'of the second', id: two.id })
    peer.say({ return: 'of the first', id: one.id })
    expect(await first).toBe('of the first')
    expect(await second).toBe('of the second')
  })

  it("rejects with QEMU's class and sentence, and goes on", async () => {
    const { peer, client } = await opened()
    const refused = client.execute('migrate')
    const { id } = await peer.request()
    peer.say({ error: { class: 'GenericError', desc: 'not now' }, id })
    const error = await refused.catch((error: unknown) => error)
    expect(error).toBeInstanceOf(QmpError)
    expect(error).toMatchObject({ command: 'migrate', errorClass: 'GenericError', desc: 'not now' })
    expect((error as Error).message).toBe('QEMU refused migrate: not now (GenericError)')
    const next = client.execute('next')
    peer.say({ return: 1, id: (await peer.request()).id })
    expect(await next).toBe(1)
  })

  it('passes lines to the human monitor', async () => {
    const { peer, client } = await opened()
    const printed = client.hmp('info status')
    const request = await peer.request()
    expect(request.execute).toBe('human-monitor-command')
    expect(request.arguments).toEqual({ 'command-line': 'info status' })
    peer.say({ return: 'VM status: running\r\n', id: request.id })
    expect(await printed).toBe('VM status: running\r\n')
  })

  it('tells and keeps events, also between two halves of a line', async () => {
    const { peer, client } = await opened()
    const told: string[] = []
    const stop = client.onEvent(({ event }) => told.push(event))
    const text = JSON.stringify({
      event: 'MIGRATION',
      data: { status: 'active' },
      timestamp: { seconds: 5, microseconds: 250_000 },
    })
    peer.socket.write(text.slice(0, 20))
    const answered = client.execute('query-status')
    const { id } = await peer.request()
    peer.socket.write(`${text.slice(20)}\n`)
    peer.say({ return: {}, id })
    await answered
    stop()
    const again = client.execute('query-status')
    peer.socket.write(`${text}\n`)
    peer.say({ return: {}, id: (await peer.request()).id })
    await again
    expect(told).toEqual(['MIGRATION'])
    const event = { event: 'MIGRATION', data: { status: 'active' }, timestampMs: 5250 }
    expect(client.events).toEqual([event, event])
  })

  it('gives up on a command that is not answered, and ignores the late answer', async () => {
    const { peer, client } = await opened()
    const slow = client.execute('slow', {}, { timeLimitMs: 20 })
    const { id } = await peer.request()
    await expect(slow).rejects.toThrow('QEMU did not answer slow within 20 ms')
    const next = client.execute('next')
    peer.say({ return: 'late', id })
    peer.say({ return: 'next', id: (await peer.request()).id })
    expect(await next).toBe('next')
  })

  it('gives up on a QEMU that never greets', async () => {
    const { opening } = await pair({ timeLimitMs: 20 })
    await expect(opening).rejects.toThrow('QEMU did not answer the greeting within 20 ms')
  })

  it('rejects what waits when the connection ends, and everything after', async () => {
    const { peer, client } = await opened()
    const waiting = client.execute('migrate')
    await peer.request()
    peer.socket.end()
    const reason = 'migrate got no answer: QEMU closed the QMP connection'
    await expect(waiting).rejects.toThrow(reason)
    await expect(client.execute('migrate')).rejects.toThrow(reason)
  })

  it('gives the better reason for an ended connection where there is one', async () => {
    const { peer, client } = await opened({ whyClosed: async () => new Error('QEMU crashed') })
    const waiting = client.execute('migrate')
    await peer.request()
    peer.socket.resetAndDestroy()
    await expect(waiting).rejects.toThrow('migrate got no answer: QEMU crashed')
  })

  it.each(['no JSON', '7', 'null', '"text"'])('refuses a peer that says %s', async (line) => {
    const { peer, client } = await opened()
    const waiting = client.execute('migrate')
    await peer.request()
    peer.socket.write(`${line}\n`)
    await expect(waiting).rejects.toThrow('came, expected a JSON object of QMP')
  })

  it('rejects what waits when it is closed', async () => {
    const { client } = await opened()
    const waiting = client.execute('migrate')
    client.close()
    await expect(waiting).rejects.toThrow('the QMP connection was closed here')
  })
})
