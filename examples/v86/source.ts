// The source's VMM: boots the guest, migrates it while it runs to the destination process, and
// gathers what both sides measured. It prints nothing; progress goes to the display it is given,
// and every failure comes out as one StartError that says where the guest is.
import { type MigrationResult, MigrationSource } from '../../src/index.ts'
import type { MigrationRecorder } from '../../src/report/recorder.ts'
import { DestinationNode } from './destination-node.ts'
import type { Display } from './display.ts'
import { DEVICES_NAME, guestMemoryOf, hashRam, PageRate, waitFor } from './guest-ram.ts'
import { V86Machine } from './machine.ts'
import { type Arrived, type Checked, describeError, StartError } from './nodes.ts'
import type { StartOptions } from './start-options.ts'
import { hashVideoMemory, paint, videoMemoryHandler } from './video-memory.ts'

const MIB = 1024 * 1024
/** Generation 1 initialises the working set, at full speed; from the second on the guest checks. */
const WARM_GENERATIONS = 3
const WARM_LIMIT_MS = 15_000
/** The destination is silent while it hashes: even 2 GiB on a slow processor are no failure. */
const PEER_TIMEOUT_MS = 10_000
const PEER_TIMEOUT_MS_PER_MIB = 5
/**
 * How long to wait for a reason after the connection broke, and for proof that the guest runs on.
 */
const REASON_LIMIT_MS = 300
const RUNS_ON_LIMIT_MS = 500

/** Everything that was measured; what is derived from it is the verdict's. */
export type Move = {
  readonly result: MigrationResult
  readonly arrived: Arrived
  readonly checked: Checked
  /** Last guest instruction here to first there, less the hashing in between. */
  readonly downtimeMs: number
  /** Of RAM, and of the video memory. */
  readonly sourceHash: string
  readonly videoHash: string
  readonly sourceVerifyMs: number
  readonly pagesPerSecondBefore: number
  readonly pagesPerSecondDuring: number
}

/**
 * Boots, moves and verifies one guest. Rejects with a StartError; nothing is left behind either
 * way.
 */
export async function moveGuest(
  options: StartOptions,
  parts: {
    signal: AbortSignal
    display: Display
    /** Is told what the display is. */
    recorder?: MigrationRecorder | undefined
  },
): Promise<Move> {
  const { signal, display, recorder } = parts
  const memorySizeBytes = options.memoryMib * MIB
  const peerTimeoutMs = PEER_TIMEOUT_MS + PEER_TIMEOUT_MS_PER_MIB * options.memoryMib
  await using destination = new DestinationNode({ memorySizeBytes, peerTimeoutMs })
  await using machine = await V86Machine.create({
    memorySizeBytes,
    workingSetBytes: options.workingSetMib * MIB,
    pagesPerSecond: options.rate,
  })
  try {
    paint(machine)
    display.booting(options, destination.pid)
    const { uri } = await destination.next('listening', signal)
    const pagesPerSecondBefore = await warmUp(machine, {
      signal: AbortSignal.any([signal, destination.gone]),
    })
    await using memory = guestMemoryOf(machine)
    const source = new MigrationSource({
      memory,
      vmm: { stop: () => machine.stop(), resume: () => void machine.resume() },
      devices: [
        videoMemoryHandler(machine),
        {
          idstr: DEVICES_NAME,
          save: () => machine.saveDevices(),
          load: (state) => machine.loadDevices(state),
        },
      ],
      multifdChannels: options.channels,
      engine: options.engine,
      zeroCopy: options.zeroCopy,
      compression: options.compression,
      ...(options.compressionLevel === undefined
        ? {}
        : { compressionLevel: options.compressionLevel }),
      maxBandwidthBytesPerSecond: options.bandwidth * 1e6,
      downtimeLimitMs: options.downtimeLimitMs,
      peerTimeoutMs,
    })
    const rate = new PageRate(machine)
    const migration = source.migrate(uri, { signal })
    for await (const progress of migration) {
      display.progress(progress)
      recorder?.migrating(progress)
    }
    const result = await migration.result
    const lastInstructionAtMs = machine.lastInstructionAtMs ?? Number.NaN
    // performance.now counts from the start of this process, the machine's clock does not.
    const pagesPerSecondDuring = rate.perSecond(performance.now() - sinceMs(lastInstructionAtMs))
    const { hash: sourceHash, tookMs: sourceVerifyMs } = hashRam(machine)
    const { hash: videoHash } = hashVideoMemory(machine)
    const arrived = await destination.next('arrived', signal)
    // The guest stood still while it was hashed, but that is the example's doing.
    const downtimeMs = arrived.firstInstructionAtMs - lastInstructionAtMs - arrived.verifyMs
    display.arrived(downtimeMs)
    return {
      result,
      arrived,
      checked: await destination.next('checked', signal),
      downtimeMs,
      sourceHash,
      videoHash,
      sourceVerifyMs,
      pagesPerSecondBefore,
      pagesPerSecondDuring,
    }
  } catch (thrown) {
    throw await explain(thrown, { machine, destination, signal })
  }
}

/** Boots and waits until the guest has passed some generations; its pages per second meanwhile. */
async function warmUp(machine: V86Machine, { signal }: { signal: AbortSignal }): Promise<number> {
  machine.start()
  const passed = (generation: number) => () => machine.readStats().generation >= generation
  const checks = await waitFor(passed(2), { limitMs: WARM_LIMIT_MS, signal })
  const rate = new PageRate(machine)
  // A slow guest need not finish a pass; what matters is that it writes and checks.
  await waitFor(passed(WARM_GENERATIONS), { limitMs: WARM_LIMIT_MS / 3, signal })
  if (checks && rate.pages > 0) return rate.perSecond()
  throw new StartError(
    'ERR_EXAMPLE_GUEST',
    `the guest wrote ${machine.readStats().pagesWritten} pages in ${WARM_LIMIT_MS} ms and checked ` +
      'none: this machine is too slow for the working set, try a smaller one',
  )
}

/** Adds to a failure why the other side failed, if that is known, and where the guest is now. */
async function explain(
  thrown: unknown,
  parts: { machine: V86Machine; destination: DestinationNode; signal: AbortSignal },
): Promise<StartError> {
  const { machine, destination, signal } = parts
  let { code, reason } = describeError(thrown)
  const cancelled = signal.aborted
  if (!cancelled && !(thrown instanceof StartError)) {
    const theirs = await destination.explanation(REASON_LIMIT_MS)
    if (theirs !== undefined) reason = `${theirs.message} (${reason})`
  }
  if (cancelled) {
    code = 'ERR_MULTIFD_ABORTED'
    reason = 'the migration was cancelled'
  }
  return new StartError(code, `${reason}; ${await whereTheGuestIs(machine)}`)
}

async function whereTheGuestIs(machine: V86Machine): Promise<string> {
  if (machine.lastInstructionAtMs === undefined && !machine.running)
    return 'the guest had not started'
  if (!machine.running) return 'the guest had been handed over and ended with the destination'
  const since = new PageRate(machine)
  await waitFor(() => since.pages > 0, { limitMs: RUNS_ON_LIMIT_MS })
  const { errors } = machine.readStats()
  return (
    `the guest runs on at the source (${since.pages} pages written since, ${errors} errors) and ends ` +
    'with this example'
  )
}

/** How long ago a time of CLOCK_MONOTONIC was, milliseconds. */
function sinceMs(monotonicMs: number): number {
  return Number(process.hrtime.bigint()) / 1e6 - monotonicMs
}
