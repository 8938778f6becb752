// Two network namespaces joined by a veth pair whose receiving end runs an XDP program: the one
// place on a single machine where zero-copy sends are really not copied (loopback always copies).
// Comparisons and tests run their processes inside; it sets itself up, takes itself down, and knows
// nothing of what is sent over it. It needs root, `ip`, `tc` and a kernel with veth and BPF.
import { setTimeout as delay } from 'node:timers/promises'
import { Child } from './child.ts'
import { NamespacePair, run } from './namespaces.ts'
import { buildNative } from './native-program.ts'

export interface RigOptions {
  /** Native-mode XDP on the destination's device. False: a plain veth, which copies. */
  readonly xdp?: boolean
  /** Bytes; 9000 unless given. */
  readonly mtu?: number
}

/** One end of the rig. */
export interface RigSide {
  readonly namespace: string
  /** IPv4, reachable from the other side only. */
  readonly address: string
  readonly device: string
  /** The same program and arguments, run inside this side's namespace. */
  command(argv: readonly string[]): string[]
}

export interface RateLimit {
  /** Of the source's device, bits per second. */
  readonly bitsPerSecond: number
  /** What may leave at once after a pause, bytes; 5 ms of the rate, at least 256 KiB. */
  readonly burstBytes?: number
  /** How long a packet may wait before the device drops it, milliseconds; 50 unless given. */
  readonly queueMs?: number
}

const BURST_MIN_BYTES = 256 * 1024
const BURST_SECONDS = 0.005
const QUEUE_MS = 50
const UP_TRIES = 1000
const UP_INTERVAL_MS = 10
const OPTMEM_MAX = '/proc/sys/net/core/optmem_max'

let trial: Promise<string | undefined> | undefined

export class Rig implements AsyncDisposable {
  readonly source: RigSide
  readonly destination: RigSide
  readonly #namespaces: NamespacePair
  readonly #children = new Set<Child>()
  /** Ends children that are being started when the rig is closed. */
  readonly #closing = new AbortController()
  #closed: Promise<void> | undefined

  private constructor(namespaces: NamespacePair) {
    this.#namespaces = namespaces
    this.source = side(namespaces.a, 'veth-a', '10.77.0.1')
    this.destination = side(namespaces.b, 'veth-b', '10.77.0.2')
  }

  /** Sets one up; several can be there at once. Rejects with a sentence that says what failed. */
  static async create({ xdp = true, mtu = 9000 }: RigOptions = {}): Promise<Rig> {
    const rig = new Rig(await NamespacePair.add())
    try {
      await rig.#connect(mtu)
      if (xdp) await rig.#hold('xdp_pass', rig.destination)
    } catch (error) {
      await rig.close()
      throw error
    }
    return rig
  }

  /**
   * Why there can be no rig here, as a sentence; undefined when there can. It is found by setting
   * one up, once per process. In CI (`CI=true`) it rejects where a program is missing that
   * `.ci/run` installs: a test that needs the rig then fails instead of being skipped.
   */
  static unavailable(): Promise<string | undefined> {
    trial ??= tryOut()
    return trial
  }

  /** Sets net.core.optmem_max for the source; bytes. Needs a kernel that has it per namespace. */
  async setOptmemMax(bytes: number): Promise<void> {
    if (!Number.isInteger(bytes) || bytes < 0) {
      throw new RangeError(`optmem_max is ${bytes}, expected a whole number of bytes from 0`)
    }
    await inside(this.source, ['sh', '-c', `echo ${bytes} > ${OPTMEM_MAX}`])
  }

  /** Limits what the source sends with a token bucket (tc tbf); undefined lifts the limit. */
  async limitRate(limit: RateLimit | undefined): Promise<void> {
    const { namespace, device } = this.source
    if (limit === undefined) {
      await run('tc', ['-n', namespace, 'qdisc', 'del', 'dev', device, 'root'])
      return
    }
    const { bitsPerSecond, queueMs = QUEUE_MS } = limit
    const ofRate = Math.ceil((bitsPerSecond / 8) * BURST_SECONDS)
    const burstBytes = limit.burstBytes ?? Math.max(BURST_MIN_BYTES, ofRate)
    const bucket = ['rate', `${bitsPerSecond}bit`, 'burst', `${burstBytes}b`]
    const queue = ['latency', `${queueMs}ms`]
    const on = ['-n', namespace, 'qdisc', 'replace', 'dev', device, 'root']
    await run('tc', [...on, 'tbf', ...bucket, ...queue])
  }

  /** An AF_PACKET socket on the source's device, as tcpdump holds one, until it is disposed of. */
  async openPacketSocket(): Promise<AsyncDisposable> {
    const child = await this.#hold('packet_socket', this.source)
    return {
      [Symbol.asyncDispose]: async () => {
        await child[Symbol.asyncDispose]()
        this.#children.delete(child)
      },
    }
  }

  /** Removes everything; a second call waits for the first. Processes inside must have ended. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #connect(mtu: number): Promise<void> {
    const { source, destination } = this
    const peer = ['peer', 'name', destination.device, 'netns', destination.namespace]
    const link = ['link', 'add', source.device, 'netns', source.namespace, 'type', 'veth']
    await run('ip', [...link, ...peer])
    for (const { namespace, device, address } of [source, destination]) {
      const within = (...args: string[]) => run('ip', ['-n', namespace, ...args])
      await within('addr', 'add', `${address}/24`, 'dev', device)
      await within('link', 'set', device, 'mtu', String(mtu), 'up')
      await within('link', 'set', 'lo', 'up')
    }
    await isUp(source)
    await isUp(destination)
  }

  // Programs that keep something open as long as their standard input is, so not beyond our life.
  async #hold(program: string, on: RigSide): Promise<Child> {
    const { signal } = this.#closing
    const [file = '', ...args] = on.command([await buildNative(program), on.device])
    const child = await Child.start(program, file, args, { signal })
    this.#children.add(child)
    await child.expect('ready', { signal })
    return child
  }

  async #close(): Promise<void> {
    this.#closing.abort(new Error('the rig was closed'))
    await Promise.all([...this.#children].map((child) => child[Symbol.asyncDispose]()))
    await this.#namespaces.remove()
  }
}

function side(namespace: string, device: string, address: string): RigSide {
  const command = (argv: readonly string[]) => ['ip', 'netns', 'exec', namespace, ...argv]
  return { namespace, device, address, command }
}

// The kernel activates a device's queue some time after the device was set up, and drops what is
// sent before that: a first connect would wait a second for the next try of ARP.
async function isUp({ namespace, device }: RigSide): Promise<void> {
  for (let tries = 0; tries < UP_TRIES; tries += 1) {
    const shown = await run('ip', ['-n', namespace, 'link', 'show', 'dev', device])
    if (shown.includes(' state UP ')) return
    await delay(UP_INTERVAL_MS)
  }
  throw new Error(`${device} did not come up within ${(UP_TRIES * UP_INTERVAL_MS) / 1e3} s`)
}

async function inside(where: RigSide, argv: readonly string[]): Promise<string> {
  const [file = '', ...args] = where.command(argv)
  return run(file, args)
}

async function tryOut(): Promise<string | undefined> {
  if (process.platform !== 'linux') return 'the veth rig needs Linux'
  if (process.getuid?.() !== 0) return 'the veth rig needs root, to make network namespaces'
  try {
    await run('ip', ['-V'])
    await run('tc', ['-V'])
    await Promise.all([buildNative('xdp_pass'), buildNative('packet_socket')])
  } catch (error) {
    if (process.env.CI === 'true') throw error
    return `the veth rig cannot be set up: ${sentence(error)}`
  }
  try {
    await using _ = await Rig.create()
    return undefined
  } catch (error) {
    return `the veth rig cannot be set up here: ${sentence(error)}`
  }
}

const sentence = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).replaceAll('\n', ' ')
