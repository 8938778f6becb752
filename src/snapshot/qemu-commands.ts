// What an operator types into a QEMU to set it right, in both of its languages: the monitor's (HMP)
// and QMP. Sentences end with them, so that nobody has to look a name up.

/** One change of a QEMU's settings. */
export interface QemuCommand {
  hmp: string
  qmp: string
}

export function setCapability(capability: string, state: boolean): QemuCommand {
  return {
    hmp: `migrate_set_capability ${capability} ${state ? 'on' : 'off'}`,
    qmp: qmp('migrate-set-capabilities', { capabilities: [{ capability, state }] }),
  }
}

export function setParameter(parameter: string, value: number | string): QemuCommand {
  return {
    hmp: `migrate_set_parameter ${parameter} ${value}`,
    qmp: qmp('migrate-set-parameters', { [parameter]: value }),
  }
}

/** What a source needs for these connections, in the order to type it. */
export function sourceCommands(settings: {
  channels: number
  compression: string
  uri: string
}): QemuCommand[] {
  const { channels, compression, uri } = settings
  const commands = [setCapability('return-path', true), setCapability('multifd', channels > 0)]
  if (channels > 0) {
    commands.push(setParameter('multifd-channels', channels))
    commands.push(setParameter('multifd-compression', compression))
  }
  commands.push({ hmp: `migrate -d ${uri}`, qmp: qmp('migrate', { uri }) })
  return commands
}

/** For the end of a sentence: the commands in both languages. */
export function inWords(commands: readonly QemuCommand[]): string {
  const hmp = commands.map((command) => `"${command.hmp}"`).join(', ')
  return `HMP ${hmp}, or QMP ${commands.map((command) => command.qmp).join(' ')}`
}

/** The same, for commands that only the source needs. */
export function atTheSource(...commands: QemuCommand[]): string {
  return `at the source, ${inWords(commands)}`
}

function qmp(execute: string, commandArguments: object): string {
  return JSON.stringify({ execute, arguments: commandArguments })
}
