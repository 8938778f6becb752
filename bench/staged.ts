// One migration under limits that change while it runs (sides/staged.ts), through a forwarder that
// counts by the clock. It is cancelled in the end, so the destination has no last word.
import { Child } from './child.ts'
import { Forwarder } from './forwarder.ts'
import { both, sideCommand } from './migration.ts'
import type { Forwarded } from './sides/forwarder-lines.ts'
import type { SideOptions, SideReady } from './sides/side-options.ts'
import type { StagedDone, StagedOrder } from './sides/staged-lines.ts'

export type StagedRun = Omit<StagedDone, 'event'> & Pick<Forwarded, 'samples'>

export async function runStaged(order: StagedOrder, signal: AbortSignal): Promise<StagedRun> {
  const { guest, channels, unendingDevices } = order
  const destinationOptions: SideOptions = {
    ...{ guest, channels, unendingDevices, address: '127.0.0.1', allowPlaintext: false },
    ...{ engine: 'auto', zeroCopy: 'auto', checksum: false, watchMemory: false },
  }
  const start = (name: string, argv: readonly string[]) => {
    const [file = '', ...args] = argv
    return Child.start(name, file, args, { signal })
  }
  await using destination = await start(
    'the destination',
    sideCommand('destination', destinationOptions),
  )
  await using source = await start('the source', sideCommand('staged', order))
  const [, { uri = '' }] = await both(
    source.expect<SideReady>('ready', { signal }),
    destination.expect<SideReady>('ready', { signal }),
  )
  await using forwarder = await Forwarder.start({ uri }, signal)
  source.say(forwarder.uri)
  const { readings, turns } = await source.expect<StagedDone>('done', { signal })
  const { samples } = await forwarder.report()
  return { readings, turns, samples }
}
