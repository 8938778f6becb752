// One side of a migration over the rig, a process inside its namespace: makes guest memory, sends
// or receives it, and reports what the library said and the RAM's hash. JSON lines on stdout, lines
// of the test on stdin; it ends with its stdin.

import { createHash, randomFillSync } from 'node:crypto'
import { createInterface } from 'node:readline'
import {
  GuestMemory,
  MigrationDestination,
  type MigrationProgress,
  type MigrationResult,
  MigrationSource,
  type MigrationSourceOptions,
} from '../../src/index.ts'

/** The only argument of the process, as JSON. */
export interface RigSideOrder {
  readonly memoryBytes: number
  /** Where to listen; undefined: this is the source, and the URI comes on stdin. */
  readonly listen?: string
  /** What the source is told beside its memory and its guest, which stands still. */
  readonly source?: Partial<Omit<MigrationSourceOptions, 'memory' | 'vmm'>>
  /** The source's VMM promises to discard nothing. */
  readonly neverDiscards?: boolean
  /** Guest memory in huge pages, where the kernel has any; default false. */
  readonly hugePages?: boolean
  /** The source says "reached" as soon as all channels report this. */
  readonly awaitedMode?: MigrationProgress['channels'][number]['zeroCopyMode']
}

export interface RigSideReady {
  readonly event: 'ready'
  /** Of the destination. */
  readonly uri: string
}

export interface RigSideReached {
  readonly event: 'reached'
}

export interface RigSideDone {
  readonly event: 'done'
  readonly sha1: string
  /** Of the source. */
  readonly result?: MigrationResult
}

const BLOCK = 'ram'
const PAGE_BYTES = 4096
const TILE_BYTES = 16 * 1024 * 1024

const order = JSON.parse(process.argv[2] ?? '') as RigSideOrder
const lines = createInterface({ input: process.stdin })
lines.once('close', () => process.exit(1)) // the test is gone
const line = new Promise<string>((resolve) => lines.once('line', resolve))

await using memory = GuestMemory.allocate(BLOCK, order.memoryBytes, {
  hugePages: order.hugePages === true,
})
const view = memory.view(BLOCK)
if (order.listen === undefined) await send()
else await receive(order.listen)
process.exit(0)

async function receive(listen: string): Promise<void> {
  await using destination = await MigrationDestination.listen(listen, {
    memory,
    allowPlaintext: true,
  })
  say({ event: 'ready', uri: destination.uri })
  await destination.completed
  await say({ event: 'done', sha1: hash() })
}

async function send(): Promise<void> {
  fill()
  say({ event: 'ready', uri: '' })
  const source = new MigrationSource({
    memory,
    vmm: { stop: () => {}, resume: () => {}, discards: order.neverDiscards !== true },
    allowPlaintext: true,
    ...order.source,
  })
  const migration = source.migrate(await line)
  const { awaitedMode } = order
  let waits = awaitedMode !== undefined
  for await (const { channels } of migration) {
    if (!waits || !channels.every(({ zeroCopyMode }) => zeroCopyMode === awaitedMode)) continue
    say({ event: 'reached' })
    waits = false
  }
  await say({ event: 'done', sha1: hash(), result: await migration.result })
}

/** Every page has content, and no two the same: nothing is sent as a zero page. */
function fill(): void {
  const tile = randomFillSync(new Uint8Array(Math.min(TILE_BYTES, view.length)))
  const stamps = new DataView(tile.buffer)
  for (let at = 0; at < view.length; at += tile.length) {
    for (let page = 0; page < tile.length; page += PAGE_BYTES)
      stamps.setFloat64(page, at + page + 1)
    view.set(tile.subarray(0, view.length - at), at)
  }
}

function hash(): string {
  return createHash('sha1').update(view).digest('hex')
}

function say(said: RigSideReady | RigSideReached | RigSideDone): Promise<void> {
  return new Promise((resolve) =>
    process.stdout.write(`${JSON.stringify(said)}\n`, () => resolve()),
  )
}
