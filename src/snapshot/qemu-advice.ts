// What to look at in QEMU when it turned a snapshot away: QEMU itself often says nothing on the
// wire, so how far it came is all that is known. Sentences for operators, with what to type.

import type { SnapshotManifest } from './manifest.ts'
import { type QemuCommand, setCapability, setParameter } from './qemu-commands.ts'

/** How far a QEMU came: what it is doing, or the last it did. */
export type ReplayStage =
  /** Connected; its answer to the first PING is still to come: it has not begun to read. */
  | 'identify'
  /** It took the configuration, and has the list of RAM blocks before it. */
  | 'setup'
  | 'pages'
  /** It has all pages, and loads devices. */
  | 'devices'

export interface ReplayFacts {
  manifest: SnapshotManifest
  channels: number
  compression: string
  /** As the channels introduce themselves. */
  uuid: string
  dialect: string
}

const QUERY_PARAMETERS = 'HMP "info migrate_parameters", QMP {"execute":"query-migrate-parameters"}'

/** How a QEMU has to be started, and set, before a snapshot is sent to it. */
export function destinationRecipe(facts: ReplayFacts): { start: string; commands: QemuCommand[] } {
  const { manifest, uuid } = facts
  const uuidOption = isNil(uuid) ? '' : ` -uuid ${uuid}`
  return {
    start:
      `qemu-system-... -machine ${manifest.machine} -m ${memoryOption(manifest)}${uuidOption} ` +
      '... -incoming defer',
    commands: [
      ...channelCommands(facts),
      {
        hmp: 'migrate_incoming tcp:HOST:PORT',
        qmp: '{"execute":"migrate-incoming","arguments":{"uri":"tcp:HOST:PORT"}}',
      },
    ],
  }
}

/** A sentence to follow what happened: QEMU fell silent, or it closed a connection. */
export function adviceFor(stage: ReplayStage, silent: boolean, facts: ReplayFacts): string {
  switch (stage) {
    case 'identify':
      return silent ? onSilenceAtStart(facts) : onRefusalAtStart(facts)
    case 'setup':
      return silent ? onSilenceInSetup(facts) : onRefusalOfRam(facts)
    case 'pages':
      return onFailureInPages(facts)
    case 'devices':
      return onFailureInDevices(facts)
  }
}

/** For whatever happens once QEMU may have everything. */
export const MAY_RUN =
  'everything was sent, so the guest may run there: HMP "info status", QMP ' +
  '{"execute":"query-status"}, shows it; look before you send it again'

/** For a QEMU that began before all channels were connected, or turned one of them away. */
export function tooManyChannels(facts: ReplayFacts): string {
  return (
    `QEMU expects fewer channels than ${facts.channels}: send over as many as it has ` +
    `(${QUERY_PARAMETERS}), or, before migrate-incoming, ${atTheDestination(channelCommands(facts))}`
  )
}

function onSilenceAtStart(facts: ReplayFacts): string {
  return (
    `it has not begun to read: it waits for another number of channels than ${facts.channels} ` +
    `(before migrate-incoming, ${atTheDestination(channelCommands(facts))}), or refused their ` +
    `UUID (${uuidAdvice(facts.uuid)}), which its stderr says`
  )
}

function onRefusalAtStart(facts: ReplayFacts): string {
  return (
    'it did not take the configuration, and its stderr says why: either it is of another machine ' +
    `type (start it with -machine ${facts.manifest.machine}), or has another UUID ` +
    `(${uuidAdvice(facts.uuid)}), or expects fewer channels than ${facts.channels} (before ` +
    `migrate-incoming, ${atTheDestination(channelCommands(facts))})`
  )
}

function onSilenceInSetup({ channels, dialect }: ReplayFacts): string {
  return (
    `it hangs before the first page: it expects other sync points than ${dialect} (see the option ` +
    `dialect), or another number of channels than ${channels} (${QUERY_PARAMETERS})`
  )
}

function onRefusalOfRam({ manifest }: ReplayFacts): string {
  const blocks = manifest.ram.map(({ idstr, sizeBytes }) => `${idstr} ${sizeBytes}`).join(', ')
  return (
    'it did not take the list of RAM blocks. Start it with the memory and the devices of the ' +
    `snapshot's VM: -m ${memoryOption(manifest)}; blocks, in bytes: ${blocks}`
  )
}

function onFailureInPages(facts: ReplayFacts): string {
  const same = channelCommands(facts)
  if (facts.compression === 'none') same.push(setParameter('multifd-compression', 'none'))
  return (
    'it did not take all pages. Compression and the number of channels must be the same there ' +
    `(before migrate-incoming, ${atTheDestination(same)}); HMP "info migrate", QMP ` +
    '{"execute":"query-migrate"}, may show why'
  )
}

function onFailureInDevices({ manifest }: ReplayFacts): string {
  return (
    'it has all of RAM and did not take the devices. Start it with the same devices, in the same ' +
    `slots, as the snapshot's VM had (-machine ${manifest.machine}, and -cpu as there); its stderr ` +
    'names the device. If it only takes long, raise peerTimeoutMs'
  )
}

function channelCommands({ channels, compression }: ReplayFacts): QemuCommand[] {
  const commands = [setCapability('multifd', channels > 0)]
  if (channels > 0) commands.push(setParameter('multifd-channels', channels))
  if (channels > 0 && compression !== 'none') {
    commands.push(setParameter('multifd-compression', compression))
  }
  return commands
}

function atTheDestination(commands: readonly QemuCommand[]): string {
  const hmp = commands.map((command) => `"${command.hmp}"`).join(', ')
  return `HMP ${hmp}, or QMP ${commands.map((command) => command.qmp).join(' ')}`
}

function uuidAdvice(uuid: string): string {
  return isNil(uuid)
    ? 'start it without -uuid, or name its UUID here'
    : `start it with -uuid ${uuid}, or name its UUID here`
}

function isNil(uuid: string): boolean {
  return /^[0-]+$/.test(uuid)
}

/** The largest block is the machine's memory; for -m, whose sizes have suffixes. */
function memoryOption({ ram }: SnapshotManifest): string {
  const bytes = Math.max(...ram.map(({ sizeBytes }) => sizeBytes))
  const mib = bytes / 2 ** 20
  return Number.isInteger(mib) ? `${mib}M` : `${bytes / 1024}K`
}
