// One relayed migration, from listening to the last byte given back: opens and closes everything,
// and keeps the one promise that matters: there are never two guests. Until the destination could
// have all of the guest every failure ends it there and resumes it at the source; after that only
// the destination's own word, or the operator's, decides.

import { RelayChannel } from '../channel/relay-channel.ts'
import { RelayPorts } from '../channel/relay-ports.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeConnection, NativeEndpoint } from '../kit/native.ts'
import { trace } from '../kit/trace.ts'
import { type DestinationEnd, verdictOf } from '../migrate/ownership.ts'
import { ProgressStream } from '../migrate/progress-stream.ts'
import type { MigrationStatus } from '../migrate/status.ts'
import { asMultifdError, FirstError } from '../migrate/teardown.ts'
import { Watchdog } from '../migrate/watchdog.ts'
import { encodePong, encodeShut, encodeSwitchoverAck } from '../wire/return-path.ts'
import { DestinationStream } from './destination-stream.ts'
import { Forwarding } from './forwarding.ts'
import type { RelayCounts, RelayProgress, RelayResult } from './progress.ts'
import type { RelaySettings } from './relay-options.ts'
import { SourceDoor } from './source-door.ts'
import { SourceStream } from './source-stream.ts'
import { SyncGate } from './sync-gate.ts'
import { aborted, sourceLost, stalled, toldByOperator, unknownOwner } from './trouble.ts'

const PROGRESS_INTERVAL_MS = 250

export class RelaySession {
  readonly progress = new ProgressStream<RelayProgress>()
  readonly #settings: RelaySettings
  readonly #to: NativeEndpoint
  readonly #first = new FirstError('relay')
  readonly #door: SourceDoor
  /** The destination's word, or what stands for it; only once it has everything. */
  readonly #answer: Deferred<void> = deferred()
  readonly #connecting = new AbortController()
  #status: MigrationStatus = 'setup'
  #reason = ''
  #source: SourceStream | undefined
  #destination: DestinationStream | undefined
  #ports: RelayPorts | undefined
  #channels: RelayChannel[] = []
  #gate: SyncGate | undefined
  /** Bytes are due. While connections are made, and at the end, other limits hold. */
  #bytesFlow = false
  #handedOver = false
  #sourceGone = false
  #answerTimer: NodeJS.Timeout | undefined

  /** Listens at once. @throws MultifdError if the address is not to be had. */
  constructor(settings: RelaySettings, from: NativeEndpoint, to: NativeEndpoint) {
    this.#settings = settings
    this.#to = to
    this.#door = new SourceDoor(settings, from, (error) => this.#fail(error))
  }

  get endpoint(): NativeEndpoint {
    return this.#door.endpoint
  }
  get status(): MigrationStatus {
    return this.#status
  }

  async run(): Promise<RelayResult> {
    const { signal, peerTimeoutMs } = this.#settings
    const abort = (): void => this.#destinationEnded('aborted', aborted(signal?.reason))
    if (signal?.aborted) abort()
    signal?.addEventListener('abort', abort, { once: true })
    const watchdog = new Watchdog({
      timeoutMs: peerTimeoutMs,
      progress: () => (this.#bytesFlow ? this.#bytes : performance.now()),
      deepProgress: () => 0,
      expired: () => this.#fail(stalled(this.#slowSide, this.#settings)),
    })
    const timer = setInterval(() => this.#report(), PROGRESS_INTERVAL_MS)
    timer.unref()
    try {
      const forwarding = await this.#open()
      await this.#forward(forwarding)
      await this.#answer.promise
      return await this.#complete(forwarding)
    } catch (thrown) {
      throw await this.#failed(asMultifdError(thrown))
    } finally {
      clearInterval(timer)
      clearTimeout(this.#answerTimer)
      watchdog.stop()
      signal?.removeEventListener('abort', abort)
    }
  }

  /** The operator's word, in status `unknown` only. */
  decide(owner: 'source' | 'destination'): void {
    if (this.#status !== 'unknown') {
      throw new MultifdError(
        'ERR_MULTIFD_STATE',
        `nobody has to decide who has the guest: the status is ${this.#status}, expected unknown`,
      )
    }
    if (owner === 'destination') this.#answer.resolve()
    else this.#answer.reject(toldByOperator())
  }

  /** The source, complete and introduced; nothing has been connected to the destination yet. */
  async #open(): Promise<Forwarding> {
    const first = this.#first
    const main = await first.unless(this.#door.main())
    this.#source = new SourceStream(main, (error) => this.#sourceEnded(error))
    const connections = await first.unless(this.#door.channels())
    this.#gate = connections.length === 0 ? undefined : new SyncGate(connections.length)
    this.#bytesFlow = true
    return new Forwarding({
      first,
      source: this.#source,
      gate: this.#gate,
      connect: (opening) => this.#connect(opening, connections),
      write: async (bytes) => await this.#destination?.write(bytes),
      setBlocks: (blocks) => this.#ports?.native.setBlocks(blocks),
      syncOut: async () => await this.#ports?.syncOut(),
      releaseSync: () => {
        for (const channel of this.#channels) channel.releaseSync()
        this.#report()
      },
      handOver: () => this.#handOver(),
    })
  }

  /** Main first, with bytes on it: QEMU 7.2 takes the first connection for it, and waits. */
  async #connect(opening: Uint8Array, connections: NativeConnection[]): Promise<void> {
    const { connectTimeoutMs: timeoutMs } = this.#settings
    const { signal } = this.#connecting
    this.#bytesFlow = false
    this.#destination = await DestinationStream.connect(
      this.#to,
      { timeoutMs, signal },
      {
        answered: (event) => {
          this.#awaitAnswer() // it lives
          if (event.kind === 'pong') this.#source?.answer(encodePong(event.value))
          else this.#source?.answer(encodeSwitchoverAck())
        },
        ended: (end, error) => this.#destinationEnded(end, error),
      },
    )
    this.#goOn()
    void this.#destination.write(opening)
    if (connections.length > 0) await this.#openChannels(connections)
    this.#bytesFlow = true
    this.#enter('active')
  }

  async #openChannels(connections: NativeConnection[]): Promise<void> {
    const { toMultifdChannels, compression, toCompression, ...rest } = this.#settings
    const ports = new RelayPorts({
      endpoint: this.#to,
      ports: toMultifdChannels,
      uuid: connections[0]?.uuid ?? new Uint8Array(16),
      compression: toCompression,
      compressionLevel: rest.toCompressionLevel,
      connectTimeoutMs: rest.connectTimeoutMs,
    })
    this.#ports = ports
    await ports.connect()
    this.#goOn()
    for (const connection of connections) {
      this.#channels.push(
        new RelayChannel(ports, connection, compression, {
          syncArrived: (id) => this.#gate?.arrived(id),
          peerEnded: (id) => this.#gate?.ended(id),
          failed: (error) => this.#fail(error),
        }),
      )
    }
  }

  /** What failed meanwhile took down what was there by then: nothing may be opened behind it. */
  #goOn(): void {
    if (this.#first.error === undefined) return
    this.#destination?.destroy()
    throw this.#first.error
  }

  /** Until the last byte went out, or the destination spoke before that. */
  async #forward(forwarding: Forwarding): Promise<void> {
    const forwarded = forwarding.run().catch((error) => {
      // With everything handed over the source's end decides nothing by itself.
      if (!this.#handedOver) throw error
      this.#sourceEnded(asMultifdError(error))
    })
    await Promise.race([forwarded, this.#answer.promise])
    this.#source?.watch()
  }

  #handOver(): void {
    this.#handedOver = true
    this.#bytesFlow = false
    this.#enter('device')
    this.#awaitAnswer()
  }

  /** The destination has peerTimeoutMs for its answer, from now on. */
  #awaitAnswer(): void {
    if (!this.#handedOver) return
    clearTimeout(this.#answerTimer)
    this.#answerTimer = setTimeout(() => {
      const text = `the destination said nothing for ${this.#settings.peerTimeoutMs} ms (peerTimeoutMs)`
      this.#destinationEnded('silent', new MultifdError('ERR_MULTIFD_TIMEOUT', text))
    }, this.#settings.peerTimeoutMs)
  }

  #destinationEnded(end: DestinationEnd, error: MultifdError): void {
    const verdict = verdictOf('qemu', this.#handedOver, end)
    if (verdict === 'given') this.#answer.resolve()
    else if (verdict === 'unknown') this.#doubt(error)
    else this.#fail(error, 'decided')
  }

  #sourceEnded(error: MultifdError): void {
    if (!this.#handedOver) {
      this.#fail(error)
      return
    }
    this.#sourceGone = true
    if (this.#status === 'unknown') this.#answer.reject(sourceLost(this.#reason))
  }

  /** Nobody but the operator can know; the source is held until then. */
  #doubt(error: MultifdError): void {
    if (this.#sourceGone) {
      this.#answer.reject(sourceLost(error.message))
    } else if (this.#status !== 'unknown') {
      this.#reason = unknownOwner(error.message)
      this.#enter('unknown')
    }
  }

  /** Once everything is handed over, only what decides ends the relay. */
  #fail(error: MultifdError, weight: 'decided' | 'symptom' = 'symptom'): void {
    if (!this.#handedOver) {
      this.#first.set(error)
      this.#connecting.abort()
    } else if (weight === 'decided') {
      this.#answer.reject(error)
    } else {
      const { code, message } = error
      trace('multifd:error', () => ({ side: 'relay', code, message }))
    }
  }

  async #complete(forwarding: Forwarding): Promise<RelayResult> {
    const sourceTold = !this.#sourceGone
    this.#source?.answer(encodeShut(0))
    this.#reason = ''
    this.#enter('completed')
    const result = this.#result(forwarding, sourceTold)
    await Promise.all([this.#source?.close(), this.#destination?.close()])
    await this.#release()
    return result
  }

  /** Resumes the guest at the source: by word where it listens, and by closing everything. */
  async #failed(error: MultifdError): Promise<MultifdError> {
    this.#handedOver = false // nothing is in doubt any more
    this.#connecting.abort()
    this.#source?.answer(encodeShut(1))
    this.#reason = ''
    const wasActive = this.#status === 'setup' || this.#status === 'active'
    await (wasActive ? new Promise((resolve) => setImmediate(resolve)) : this.#source?.close())
    await this.#release()
    this.#enter(error.code === 'ERR_MULTIFD_ABORTED' ? 'cancelled' : 'failed')
    return error
  }

  async #release(): Promise<void> {
    this.#ports?.stop()
    this.#source?.destroy()
    this.#destination?.destroy()
    await this.#door.close()
    await Promise.all(this.#channels.map((channel) => channel.destroy()))
    await this.#ports?.close()
  }

  #enter(status: MigrationStatus): void {
    const from = this.#status
    if (from === status) return
    this.#status = status
    trace('multifd:state', () => ({ side: 'relay', from, to: status }))
    this.progress.push(this.#event())
  }

  #report(): void {
    if (this.progress.watched) this.progress.push(this.#event())
  }

  #event(): RelayProgress {
    return {
      status: this.#status,
      reason: this.#reason,
      ...this.#counts(),
      elapsedMs: this.#elapsedMs,
    }
  }

  #counts(): RelayCounts {
    const counters = this.#channels.map((channel) => channel.counters)
    const sum = (name: 'packets' | 'normalPages' | 'zeroPages'): number =>
      counters.reduce((total, counter) => total + counter[name], 0)
    const syncs = this.#gate?.passed ?? 0
    return {
      receivedBytes: this.#receivedBytes,
      sentBytes: this.#sentBytes,
      packets: sum('packets'),
      normalPages: sum('normalPages'),
      zeroPages: sum('zeroPages'),
      syncs,
      round: Math.max(0, syncs - 1),
    }
  }

  #result(forwarding: Forwarding, sourceTold: boolean): RelayResult {
    return {
      status: 'completed',
      machine: forwarding.machine,
      dialect: forwarding.dialect,
      sourceTold,
      ...this.#counts(),
      totalTimeMs: this.#elapsedMs,
      sourceChannels: this.#channels.map(({ channelId, counters }) => ({ channelId, ...counters })),
      destinationChannels: (this.#ports?.counters ?? []).map((counters, channelId) => ({
        channelId,
        ...counters,
      })),
    }
  }

  get #elapsedMs(): number {
    return this.#door.startedMs === 0 ? 0 : performance.now() - this.#door.startedMs
  }
  get #receivedBytes(): number {
    const multifd = this.#channels.reduce((sum, channel) => sum + channel.receivedBytes, 0)
    return multifd + (this.#source?.readBytes ?? 0)
  }
  get #sentBytes(): number {
    return (this.#ports?.sentBytes ?? 0) + (this.#destination?.writtenBytes ?? 0)
  }
  get #bytes(): number {
    return this.#receivedBytes + this.#sentBytes
  }

  /** Whom everybody waits for when nothing moves. */
  get #slowSide(): 'source' | 'destination' {
    return this.#ports?.busy || this.#destination?.busy ? 'destination' : 'source'
  }
}
