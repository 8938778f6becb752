// A path that can be watched and cut: a process between source and destination that takes each
// connection, opens one of its own to the destination, and passes bytes both ways. It counts what
// comes from the source by the clock, and resets everything once when it is told to. It knows
// nothing of what the bytes mean.
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import type { ForwarderOrder } from './forwarder-lines.ts'
import { nextLine, readOrder, say } from './lines.ts'
import { monotonicMs } from './meter.ts'

const SAMPLE_INTERVAL_MS = 5
/** More than all introductions together: what comes beyond that is pages. */
const INTRODUCTION_BYTES = 64 * 1024

const { uri, cutAfterBytes = Number.POSITIVE_INFINITY } = readOrder<ForwarderOrder>()
const line = nextLine()
const [, host = '', port = ''] = /^tcp:(.*):(\d+)$/.exec(uri) ?? []
const sockets = new Set<Socket>()
const samples: [number, number][] = []
let bytes = 0
let cut: { atMs: number; bytes: number; flowsAgainMs: number | null } | undefined

const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (source) => {
  const destination = connect({ host, port: Number(port), allowHalfOpen: true })
  for (const socket of [source, destination]) {
    sockets.add(socket)
    socket.setNoDelay(true)
    socket.on('error', () => {}) // whoever is behind the other one hears of it by 'close'
    socket.once('close', () => {
      sockets.delete(socket)
      const other = socket === source ? destination : source
      if (socket.errored || cut) other.destroy()
    })
  }
  source.on('data', (some) => count(some.length))
  source.pipe(destination)
  destination.pipe(source)
})
server.listen(0, '127.0.0.1')
await once(server, 'listening')
const { port: ownPort } = server.address() as AddressInfo
setInterval(() => samples.push([monotonicMs(), bytes]), SAMPLE_INTERVAL_MS)
say({ event: 'ready', uri: `tcp:127.0.0.1:${ownPort}` })
await line
say({ event: 'done', samples, flowsAgainMs: cut?.flowsAgainMs ?? null })
process.exit(0)

function count(more: number): void {
  bytes += more
  if (cut === undefined) {
    if (bytes >= cutAfterBytes) cutAll()
  } else if (cut.flowsAgainMs === null && bytes - cut.bytes > INTRODUCTION_BYTES) {
    cut.flowsAgainMs = monotonicMs() - cut.atMs
  }
}

function cutAll(): void {
  cut = { atMs: monotonicMs(), bytes, flowsAgainMs: null }
  for (const socket of sockets) socket.resetAndDestroy()
}
