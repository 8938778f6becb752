// A snapshot that is ready to be replayed: every file compared with the manifest, configuration and
// device state in memory, the dialect known. It reads files and sends nothing; whatever is wrong
// is said before the first connection.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { MultifdError } from '../kit/errors.ts'
import { concatBytes } from '../wire/bytes.ts'
import { type Dialect, dialectOfMachine } from '../wire/dialect.ts'
import type { Configuration } from '../wire/main-stream-events.ts'
import { MainStreamReader } from '../wire/main-stream-reader.ts'
import { encodeOpenReturnPath } from '../wire/main-stream-writer.ts'
import { withPausedGuest } from './global-state.ts'
import type { SnapshotManifest } from './manifest.ts'
import type { SendSettings } from './send-options.ts'
import { verifySnapshot } from './snapshot-directory.ts'

export interface StoredSnapshot {
  directory: string
  manifest: SnapshotManifest
  /** False: there were no hashes to compare, sizes only. */
  hashed: boolean
  /** Header and configuration section, raw. */
  configuration: Uint8Array
  /** From the first device section to the end; changed where the guest is to stay paused. */
  tail: Uint8Array
  dialect: Dialect
}

/**
 * @throws MultifdError ERR_MULTIFD_SNAPSHOT if anything is not as the manifest says,
 * ERR_MULTIFD_UNSUPPORTED if it cannot be replayed as it was asked for, ERR_MULTIFD_ABORTED
 */
export async function loadSnapshot(
  directory: string,
  settings: Pick<SendSettings, 'paused' | 'dialect' | 'multifdChannels' | 'signal'>,
): Promise<StoredSnapshot> {
  const { signal } = settings
  const options = signal === undefined ? {} : { signal }
  const { manifest, hashed } = await verifySnapshot(directory, options)
  const configuration = await readFile(join(directory, manifest.configuration.path))
  checkConfiguration(configuration, manifest)
  const tail = await readFile(join(directory, manifest.devices.path))
  const dialect = dialectFor(manifest, settings)
  const loaded = { directory, manifest, hashed, configuration, dialect }
  if (!settings.paused) return { ...loaded, tail }
  const paused = withPausedGuest(tail)
  if (!paused.ok) throw paused.error
  return { ...loaded, tail: paused.value }
}

function checkConfiguration(bytes: Uint8Array, manifest: SnapshotManifest): void {
  // A configuration ends where another element begins.
  const reading = new MainStreamReader().push(concatBytes(bytes, encodeOpenReturnPath()))
  const [header, configuration, next] = reading.events
  const whole = header?.kind === 'header' && next?.kind === 'command'
  if (!whole || configuration?.kind !== 'configuration') {
    const why = reading.error?.message ?? 'there is something behind it'
    throw notReplayable(`${manifest.configuration.path} is no configuration section: ${why}`)
  }
  checkCapabilities(configuration)
  if (configuration.machineName === manifest.machine) return
  throw notReplayable(
    `the manifest names machine ${manifest.machine}, the configuration ${configuration.machineName}`,
  )
}

/** With these QEMU stores RAM, or its block list, in another form than the one we write. */
function checkCapabilities({ capabilities }: Configuration): void {
  const unknown = capabilities.filter((name) => ['x-ignore-shared', 'mapped-ram'].includes(name))
  if (unknown.length === 0) return
  throw new MultifdError(
    'ERR_MULTIFD_UNSUPPORTED',
    `the snapshot's source had ${unknown.join(' and ')} on, and its stream cannot be replayed; ` +
      'switch it off at the source and store the VM anew',
  )
}

/**
 * A machine type says where sync points are. One that says nothing (downstream names) says it by
 * what its own source sent, if that was over channels.
 */
function dialectFor(
  manifest: SnapshotManifest,
  settings: Pick<SendSettings, 'dialect' | 'multifdChannels'>,
): Dialect {
  if (settings.dialect !== undefined) return settings.dialect
  const implied = dialectOfMachine(manifest.machine)
  if (implied !== undefined) return implied
  if (manifest.received.channels > 0 || settings.multifdChannels === 0) return manifest.dialect
  throw new MultifdError(
    'ERR_MULTIFD_UNSUPPORTED',
    `the machine type ${manifest.machine} does not say where QEMU's sync points are, and the wrong ` +
      'dialect hangs QEMU: name the dialect, per-section for what is built on machine types up to ' +
      '8.0, per-round for 8.1 and newer. In the QMP of the VM, ' +
      '{"execute":"qom-get","arguments":{"path":"/machine","property":"type"}} names its machine ' +
      'type, and query-machines what that is an alias of',
  )
}

function notReplayable(problem: string): MultifdError {
  return new MultifdError('ERR_MULTIFD_SNAPSHOT', problem)
}
