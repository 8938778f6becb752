// A process that sets up a rig and ends as its first argument says, without taking it down: for
// tests of what is left. A line on stdout names the namespaces.

import { Rig } from '../../bench/rig.ts'

const endings: Record<string, () => void> = {
  exits: () => process.exit(0),
  throws: () => {
    throw new Error('thrown by the owner of the rig')
  },
  stays: () => {},
  // A second listener, which is what bench/main.ts has: the signal itself then ends nothing.
  staysUntilSignal: () => process.on('SIGINT', () => process.exit(3)),
}

const rig = await Rig.create()
const namespaces = [rig.source.namespace, rig.destination.namespace]
process.stdout.write(`${JSON.stringify({ event: 'ready', namespaces })}\n`)
endings[process.argv[2] ?? '']?.()
