// The main channel of a simulated connection, in place of src/channel/main-channel.ts: what Node's
// sockets do with bytes, ends and resets, over the simulation's network.

import type { MainChannelListener, MainStream } from '../../src/channel/main-channel.ts'
import { type Deferred, deferred } from '../../src/kit/deferred.ts'
import { MultifdError } from '../../src/kit/errors.ts'
import type { NativeConnection, NativeEndpoint } from '../../src/kit/native.ts'
import { encodeCommit } from '../../src/wire/main-stream-writer.ts'
import { encodeShut } from '../../src/wire/return-path.ts'
import type { End } from './connection.ts'
import type { SimulatedConnection } from './listen-thread.ts'
import type { World } from './world.ts'

/** Words whose moment matters. */
const COMMIT = Buffer.from(encodeCommit())
const SHUT = Buffer.from(encodeShut(0))

const LINGER_MS = 1000
const HIGH_WATER_BYTES = 16_384

export class SimulatedMain implements MainStream {
  readonly #world: World
  readonly #end: End
  readonly #listener: MainChannelListener
  readonly #queue: Uint8Array[] = []
  #queuedBytes = 0
  readonly #closed: Deferred<void> = deferred()
  #drained: Deferred<void> = deferred()
  #flowing = true
  #turning = false
  #endSeen = false
  #ending = false
  #isClosed = false
  #shutSaid = false
  writtenBytes = 0
  readBytes = 0

  private constructor(world: World, end: End, listener: MainChannelListener) {
    this.#world = world
    this.#end = end
    this.#listener = listener
    world.count('main channel', 1)
    end.changed = () => this.#turn()
    this.#turn()
  }

  static connect(
    world: World,
    { path = '' }: NativeEndpoint,
    options: { timeoutMs: number; signal: AbortSignal },
    listener: MainChannelListener,
  ): Promise<SimulatedMain> {
    const { clock, network } = world
    const { timeoutMs, signal } = options
    return new Promise((resolve, reject) => {
      const settle = (error: MultifdError | undefined, end?: End): void => {
        clock.callOff(late)
        callOff()
        signal.removeEventListener('abort', aborted)
        if (error !== undefined || end === undefined) reject(error)
        else resolve(new SimulatedMain(world, end, listener))
      }
      const failed = (code: 'ERR_MULTIFD_CHANNEL' | 'ERR_MULTIFD_TIMEOUT', errno?: string) => {
        settle(new MultifdError(code, 'connecting failed', errno === undefined ? {} : { errno }))
      }
      const aborted = (): void => failed('ERR_MULTIFD_CHANNEL', 'ABORT_ERR')
      const late = clock.after(timeoutMs, () => failed('ERR_MULTIFD_TIMEOUT'))
      const callOff = network.connect(path, (end) => {
        if (end === undefined) failed('ERR_MULTIFD_CHANNEL', 'ECONNREFUSED')
        else settle(undefined, end)
      })
      signal.addEventListener('abort', aborted)
      if (signal.aborted) aborted()
    })
  }

  static adopt(
    world: World,
    connection: NativeConnection,
    listener: MainChannelListener,
  ): SimulatedMain {
    const end = (connection as SimulatedConnection).release()
    if (end === undefined) throw new Error('the connection was taken already')
    return new SimulatedMain(world, end, listener)
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#isClosed || this.#ending) return
    if (COMMIT.equals(bytes)) this.#world.heard('commit')
    if (SHUT.equals(bytes)) this.#world.heard(this.#shutSaid ? 'taken' : 'ready')
    this.#shutSaid ||= SHUT.equals(bytes)
    this.#queue.push(bytes)
    this.#queuedBytes += bytes.length
    this.#flush()
    if (this.#queuedBytes <= HIGH_WATER_BYTES) return
    await Promise.race([this.#drained.promise, this.#closed.promise])
  }

  pause(): void {
    this.#flowing = false
  }
  resume(): void {
    if (this.#flowing) return
    this.#flowing = true
    this.#turn()
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#ending = true
    const timer = setTimeout(() => this.destroy(), LINGER_MS)
    this.#flush()
    this.resume()
    this.#closeIfOver()
    await this.#closed.promise
    clearTimeout(timer)
  }

  destroy(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#queue.length = 0
    this.#end.changed = () => {}
    this.#end.close()
    this.#world.count('main channel', -1)
    this.#closed.resolve()
  }

  /** A turn of the event loop looks at the socket. */
  #turn(): void {
    if (this.#turning) return
    this.#turning = true
    this.#world.network.soon(() => {
      this.#turning = false
      if (this.#isClosed) return
      this.#flush()
      this.#read()
    })
  }

  #flush(): void {
    while (!this.#isClosed && this.#queue.length > 0) {
      if (this.#end.broken !== undefined) {
        this.#break()
        return
      }
      const first = this.#queue[0] as Uint8Array
      const taken = this.#end.write(first)
      this.writtenBytes += taken
      this.#queuedBytes -= taken
      if (taken < first.length) {
        this.#queue[0] = first.subarray(taken)
        return
      }
      this.#queue.shift()
    }
    this.#drained.resolve()
    this.#drained = deferred()
    if (this.#ending) this.#end.finish()
    this.#closeIfOver()
  }

  #read(): void {
    while (this.#flowing && !this.#isClosed && this.#end.readable > 0) {
      const bytes = this.#end.read()
      this.readBytes += bytes.length
      this.#listener.data(bytes)
    }
    if (!this.#flowing || this.#isClosed) return
    if (this.#end.broken !== undefined) this.#break()
    else if (this.#end.ended && !this.#endSeen) {
      this.#endSeen = true
      this.#closeIfOver()
      this.#listener.ended()
    }
  }

  #closeIfOver(): void {
    if (this.#ending && this.#endSeen && this.#queue.length === 0) this.destroy()
  }

  /** Node tells an error in a turn of its own. */
  #break(): void {
    const errno = this.#end.broken ?? 'ECONNRESET'
    this.destroy()
    const error = new MultifdError('ERR_MULTIFD_PEER_CLOSED', 'the main channel broke', { errno })
    queueMicrotask(() => this.#listener.failed(error))
  }
}
