// What the operator types at a QEMU on either side of a relay. The commands themselves are those of
// the snapshot room; here is which of them which side needs.

import { type QemuCommand, setCapability, setParameter } from '../snapshot/qemu-commands.ts'
import type { QemuSide } from './relay-options.ts'

/** For a destination started with `-incoming defer`, in order. @param uri where it listens */
export function destinationCommands(side: QemuSide, uri: string): QemuCommand[] {
  const qmp = JSON.stringify({ execute: 'migrate-incoming', arguments: { uri } })
  return [...multifdCommands(side), { hmp: `migrate_incoming ${uri}`, qmp }]
}

/** What both ends of one side's connections must have alike. */
export function multifdCommands({ channels, compression }: QemuSide): QemuCommand[] {
  if (channels === 0) return [setCapability('multifd', false)]
  return [
    setCapability('multifd', true),
    setParameter('multifd-channels', channels),
    setParameter('multifd-compression', compression),
  ]
}
