// The destination's VMM, a process of its own: an empty machine that takes one migration, hashes
// the RAM it got, runs the guest on and lets it check itself. main.ts starts it, with its plan as
// the argument, and it ends when main.ts lets go of it or is gone.
import { type Device, MigrationDestination, type SaveStateHandler } from '../../src/index.ts'
import { DEVICES_NAME, guestMemoryOf, hashRam, PageRate, waitFor } from './guest-ram.ts'
import { V86Machine } from './machine.ts'
import { type DestinationPlan, type DestinationReport, describeError, StartError } from './nodes.ts'
import { hashVideoMemory, videoMemoryHandler } from './video-memory.ts'

/** The guest runs on until it has checked all it has, or for so long at most. */
const CHECK_LIMIT_MS = 5_000

function report(said: DestinationReport): Promise<void> {
  return new Promise((resolve) => {
    // A source that is gone is no error here; 'disconnect' ends this process.
    process.send?.(said, undefined, {}, () => resolve())
  })
}

async function takeGuest(plan: DestinationPlan): Promise<void> {
  const machine = await V86Machine.create({
    memorySizeBytes: plan.memorySizeBytes,
    incoming: true,
  })
  let verified = { hash: '', tookMs: 0 }
  const v86: Device = {
    idstr: DEVICES_NAME,
    save: () => {
      throw new StartError('ERR_EXAMPLE', 'a destination has nothing to save')
    },
    load: (state) => {
      // All RAM is in place and the guest stands still: the only moment to compare it.
      verified = hashRam(machine)
      machine.loadDevices(state)
    },
  }
  const video = videoMemoryHandler(machine)
  let seen = { hash: '', tookMs: 0 }
  const vga: SaveStateHandler = {
    ...video,
    load: async (state, part, versionId) => {
      await video.load(state, part, versionId)
      if (part === 'complete') seen = hashVideoMemory(machine)
    },
  }
  await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
    memory: guestMemoryOf(machine),
    devices: [vga, v86],
    peerTimeoutMs: plan.peerTimeoutMs,
  })
  await report({ kind: 'listening', uri: destination.uri })
  const { channels } = await destination.completed
  const firstInstructionAtMs = await machine.resume()
  if (firstInstructionAtMs === undefined) {
    throw new StartError('ERR_EXAMPLE_GUEST', 'the guest was stopped before it ran')
  }
  const cpuNanoseconds = channels.reduce((sum, channel) => sum + channel.cpuNanoseconds, 0)
  await report({
    kind: 'arrived',
    firstInstructionAtMs,
    ramHash: verified.hash,
    videoHash: seen.hash,
    verifyMs: verified.tookMs + seen.tookMs,
    channelCpuSeconds: cpuNanoseconds / 1e9,
  })
  await report(await letItCheck(machine))
}

/** Two generations on, every page was checked at least once after the move. */
async function letItCheck(machine: V86Machine): Promise<DestinationReport> {
  const wanted = machine.readStats().generation + 2
  const rate = new PageRate(machine)
  await waitFor(() => machine.readStats().generation >= wanted, { limitMs: CHECK_LIMIT_MS })
  return {
    kind: 'checked',
    guestErrors: machine.readStats().errors,
    pagesChecked: rate.pages,
    pagesPerSecond: rate.perSecond(),
  }
}

// Ctrl-C reaches every process of the terminal, but only the source decides what becomes of the
// guest.
process.on('SIGINT', () => {})
process.on('disconnect', () => process.exit())

const [, , plan] = process.argv
if (plan === undefined || process.send === undefined) {
  process.stderr.write('This is the second process of the example: start it with npm start.\n')
  process.exit(2)
}
try {
  await takeGuest(JSON.parse(plan) as DestinationPlan)
} catch (thrown) {
  process.exitCode = 1
  await report({ kind: 'failed', ...describeError(thrown) })
  process.disconnect?.()
}
