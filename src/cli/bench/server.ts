// The receiving end of `multifd bench`: takes migrations of made-up guests into memory that it
// throws away, for one client at a time, and tells each what they cost here. It serves until its
// signal fires.

import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { freemem } from 'node:os'
import { formatUri, parseUri, resolveUri } from '../../channel/uri.ts'
import { MigrationDestination } from '../../destination.ts'
import { GuestMemory } from '../../guest/guest-memory.ts'
import { MultifdError } from '../../kit/errors.ts'
import type { NativeEndpoint } from '../../kit/native.ts'
import { ControlConnection, numberOf } from './control.ts'
import { BLOCK_NAME, cpuSecondsSince, GREETING, PAGE_BYTES } from './terms.ts'

/** Guests are at most so large, and at most half of the memory that is free; bytes. */
const GUEST_BYTES_MAX = 4 * 2 ** 30
/** From the word that a migration may come to its first byte, milliseconds. */
const CONNECT_LIMIT_MS = 20_000

export interface ServerOptions {
  readonly allowPlaintext: boolean
  readonly signal: AbortSignal
  /** A line for people. */
  readonly say: (line: string) => void
}

/** Resolves when the signal has fired and everything is given back. */
export async function serve(uri: string, options: ServerOptions): Promise<void> {
  const { signal, say } = options
  const parsed = parseUri(uri)
  if (parsed.kind !== 'tcp') throw new TypeError(`multifd bench measures TCP, got ${uri}`)
  const endpoint = await resolveUri(parsed, options)
  let served: Promise<void> | undefined
  const server = createServer((socket) => {
    if (served !== undefined) return turnAway(socket)
    served = serveOne(socket, endpoint.port ?? 0, options)
      .catch((error: Error) => {
        if (!signal.aborted) say(error.message)
      })
      .finally(() => {
        served = undefined
      })
  })
  await listen(server, endpoint)
  const address = server.address()
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0
  say(`Waiting on ${formatUri({ ...endpoint, port })} for: multifd bench`)
  if (!signal.aborted) await once(signal, 'abort')
  server.close()
  await served
}

async function listen(server: Server, endpoint: NativeEndpoint): Promise<void> {
  const { host = '', port = 0 } = endpoint
  try {
    await once(server.listen({ host, port }), 'listening')
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? String(cause)
    const sentence = `listening on ${formatUri(endpoint)} failed (${why})`
    throw new MultifdError('ERR_MULTIFD_CHANNEL', sentence, { cause })
  }
}

function turnAway(socket: Socket): void {
  using control = new ControlConnection(socket, 'a client')
  control.say({ ...GREETING, error: 'the server measures with another client; try again soon' })
}

/** Migrations come to the port behind the one that was named; to any free one where none was. */
async function serveOne(socket: Socket, named: number, options: ServerOptions): Promise<void> {
  const { say, signal } = options
  const { remoteAddress = 'a client', remotePort = 0, localAddress = '' } = socket
  const peer = formatUri({ host: plainAddress(remoteAddress), port: remotePort })
  using control = new ControlConnection(socket, peer)
  const uri = formatUri({ host: plainAddress(localAddress), port: named === 0 ? 0 : named + 1 })
  say(`${peer} measures`)
  const total = { migrations: 0, receivedBytes: 0, cpuSeconds: 0 }
  const guestBytesMax = Math.min(GUEST_BYTES_MAX, Math.floor(freemem() / 2))
  control.say({ ...GREETING, guestBytesMax })
  try {
    for (;;) {
      const asked = await control.next(signal)
      if (asked.end === true) break
      const what = asked.prepare === undefined ? 'guestBytes' : 'prepare'
      const pages = Math.ceil(numberOf(asked, what, guestBytesMax) / PAGE_BYTES)
      await using memory = GuestMemory.allocate(BLOCK_NAME, Math.max(1, pages) * PAGE_BYTES)
      if (what === 'prepare') {
        // Memory that the host of a virtual machine has not given yet would slow down only the
        // first migrations, which would then be taken for slow.
        memory.view(BLOCK_NAME).fill(0)
        control.say({ prepared: true })
        continue
      }
      // Fresh every time, as a VMM's is: the first touch of each page is in the time it takes.
      const { receivedBytes, cpuSeconds } = await takeOne(memory, uri, control, options)
      total.migrations += 1
      total.receivedBytes += receivedBytes
      total.cpuSeconds += cpuSeconds
    }
  } catch (error) {
    control.say({ error: (error as Error).message })
    throw error
  }
  const gigabytes = total.receivedBytes / 1e9
  say(
    `${peer} is done: ${total.migrations} migrations, ${gigabytes.toFixed(1)} GB, ` +
      `${(total.cpuSeconds / gigabytes).toFixed(3)} CPU-s per GB here`,
  )
}

/** One migration, however it ends: the source may cut it short. */
async function takeOne(
  memory: GuestMemory,
  uri: string,
  control: ControlConnection,
  { allowPlaintext, signal }: ServerOptions,
): Promise<{ receivedBytes: number; cpuSeconds: number }> {
  const before = process.cpuUsage()
  await using destination = await MigrationDestination.listen(uri, {
    memory,
    allowPlaintext,
    signal,
  })
  // A client that is gone before it connects would be waited for without end.
  const giveUp = (): void => void destination.close()
  const timer = setTimeout(() => {
    if (destination.receivedBytes === 0) giveUp()
  }, CONNECT_LIMIT_MS)
  control.gone.addEventListener('abort', giveUp)
  control.say({ uri: destination.uri })
  const failure = await destination.completed.then(
    () => undefined,
    (error: Error) => error,
  )
  clearTimeout(timer)
  control.gone.removeEventListener('abort', giveUp)
  signal.throwIfAborted()
  const { receivedBytes } = destination
  const cpuSeconds = cpuSecondsSince(before)
  control.say({ cpuSeconds, receivedBytes, failure: failure?.message ?? null })
  return { receivedBytes, cpuSeconds }
}

/** An IPv4 address of a socket that takes both. */
function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, '')
}
