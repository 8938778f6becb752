// The header and the configuration section that open a main channel: who the source is. Encoding,
// and the incremental reading of the section's name and subsections. What the name and the
// capabilities mean is for dialect.ts and for the caller.

import { CAPABILITIES_MAX, MACHINE_NAME_BYTES_MAX, PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { be32, concatBytes, decodeName, encodeCounted, encodeName, quoteBytes } from './bytes.ts'
import {
  CONFIGURATION_CAPABILITIES,
  CONFIGURATION_TARGET_PAGE_BITS,
  CONFIGURATION_UUID,
  QEMU_VM_CONFIGURATION,
  QEMU_VM_FILE_MAGIC,
  QEMU_VM_FILE_VERSION,
  QEMU_VM_SUBSECTION,
} from './constants.ts'
import type { Configuration, StreamContext } from './main-stream-events.ts'

const SUBSECTION_VERSION = 1
const PAGE_BITS = Math.log2(PAGE_SIZE_BYTES)

/** Magic and version: the first 8 bytes of a main channel. */
export function encodeHeader(): Uint8Array {
  return concatBytes(be32(QEMU_VM_FILE_MAGIC), be32(QEMU_VM_FILE_VERSION))
}

/**
 * The configuration section. The reader cannot know that it is over before the next byte arrives,
 * so send a command right behind it.
 * @throws RangeError if a name does not fit or the UUID is not 16 bytes
 */
export function encodeConfiguration(configuration: Configuration): Uint8Array {
  const { machineName, capabilities, uuid } = configuration
  const name = encodeName('machine name', machineName, MACHINE_NAME_BYTES_MAX)
  const parts = [Uint8Array.of(QEMU_VM_CONFIGURATION), be32(name.length), name]
  if (capabilities.length > CAPABILITIES_MAX) {
    throw new RangeError(
      `expected at most ${CAPABILITIES_MAX} capabilities, got ${capabilities.length}`,
    )
  }
  if (capabilities.length > 0) {
    parts.push(encodeSubsection(CONFIGURATION_CAPABILITIES), be32(capabilities.length))
    for (const capability of capabilities) parts.push(encodeCounted('capability', capability))
  }
  if (uuid !== undefined) {
    if (uuid.length !== 16) throw new RangeError(`expected a UUID of 16 bytes, got ${uuid.length}`)
    parts.push(encodeSubsection(CONFIGURATION_UUID), uuid)
  }
  return concatBytes(...parts)
}

function encodeSubsection(name: string): Uint8Array {
  return concatBytes(
    Uint8Array.of(QEMU_VM_SUBSECTION),
    encodeCounted('subsection', name),
    be32(SUBSECTION_VERSION),
  )
}

/** Reads what follows the type byte of the configuration section. */
export class ConfigurationReader {
  readonly #context: StreamContext
  readonly #seen = new Set<string>()
  readonly #capabilities: string[] = []
  #step: () => boolean = () => this.#readName()
  #machineName = ''
  #uuid: Uint8Array | undefined
  #capabilitiesLeft = 0
  #complete = false

  constructor(context: StreamContext) {
    this.#context = context
  }

  /** The whole section, once its end was seen. */
  get result(): Configuration | undefined {
    if (!this.#complete) return undefined
    const base = { machineName: this.#machineName, capabilities: this.#capabilities }
    return this.#uuid === undefined ? base : { ...base, uuid: this.#uuid }
  }

  /** Consumes one element; false if more bytes are needed or the stream failed. */
  step(): boolean {
    return this.#step()
  }

  #readName(): boolean {
    const { queue } = this.#context
    if (queue.available < 4) return false
    const length = queue.be32At(0)
    if (length === 0 || length > MACHINE_NAME_BYTES_MAX) {
      return this.#context.fail(
        length === 0 ? 'ERR_MULTIFD_PROTOCOL' : 'ERR_MULTIFD_LIMIT',
        `the machine name is ${length} bytes long, expected 1 .. ${MACHINE_NAME_BYTES_MAX}`,
      )
    }
    if (queue.available < 4 + length) return false
    const bytes = queue.peek(4 + length).subarray(4)
    const name = decodeName(bytes)
    if (name === undefined)
      return this.#refuse(`the machine name is ${quoteBytes(bytes)}, expected UTF-8`)
    queue.skip(4 + length)
    this.#machineName = name
    this.#step = () => this.#readSubsection()
    return true
  }

  /** The one byte of look-ahead: only a byte that is not a subsection's ends the configuration. */
  #readSubsection(): boolean {
    const { queue } = this.#context
    if (queue.available < 1) return false
    if (queue.byteAt(0) !== QEMU_VM_SUBSECTION) {
      this.#complete = true
      return true
    }
    if (queue.available < 2) return false
    const length = queue.byteAt(1)
    if (queue.available < 2 + length + 4) return false
    const bytes = queue.peek(2 + length).subarray(2)
    const name = decodeName(bytes)
    const version = queue.be32At(2 + length)
    const step = name === undefined ? undefined : this.#subsectionStep(name)
    if (name === undefined || step === undefined) {
      return this.#refuse(
        `the configuration has a subsection ${quoteBytes(bytes)}, expected target-page-bits, ` +
          'capabilities or uuid',
      )
    }
    if (version !== SUBSECTION_VERSION) {
      return this.#refuse(
        `subsection ${name} has version ${version}, expected ${SUBSECTION_VERSION}`,
      )
    }
    if (this.#seen.has(name)) return this.#refuse(`subsection ${name} came twice, expected it once`)
    this.#seen.add(name)
    queue.skip(2 + length + 4)
    this.#step = step
    return true
  }

  #subsectionStep(name: string): (() => boolean) | undefined {
    if (name === CONFIGURATION_CAPABILITIES) return () => this.#readCapabilityCount()
    if (name === CONFIGURATION_UUID) return () => this.#readUuid()
    if (name === CONFIGURATION_TARGET_PAGE_BITS) return () => this.#readPageBits()
    return undefined
  }

  #readPageBits(): boolean {
    const { queue } = this.#context
    if (queue.available < 4) return false
    const bits = queue.be32At(0)
    if (bits !== PAGE_BITS) {
      return this.#context.fail(
        'ERR_MULTIFD_UNSUPPORTED',
        `the source's target page has 2^${bits} bytes, expected 2^${PAGE_BITS}`,
      )
    }
    queue.skip(4)
    this.#step = () => this.#readSubsection()
    return true
  }

  #readUuid(): boolean {
    const { queue } = this.#context
    if (queue.available < 16) return false
    this.#uuid = queue.take(16)
    this.#step = () => this.#readSubsection()
    return true
  }

  #readCapabilityCount(): boolean {
    const { queue } = this.#context
    if (queue.available < 4) return false
    const count = queue.be32At(0)
    if (count > CAPABILITIES_MAX) {
      return this.#context.fail(
        'ERR_MULTIFD_LIMIT',
        `the capability list has ${count} entries, expected at most ${CAPABILITIES_MAX}`,
      )
    }
    queue.skip(4)
    this.#capabilitiesLeft = count
    this.#step = () => this.#readCapability()
    return true
  }

  #readCapability(): boolean {
    const { queue } = this.#context
    if (this.#capabilitiesLeft === 0) {
      this.#step = () => this.#readSubsection()
      return true
    }
    if (queue.available < 1) return false
    const length = queue.byteAt(0)
    if (queue.available < 1 + length) return false
    const bytes = queue.peek(1 + length).subarray(1)
    const capability = decodeName(bytes)
    if (capability === undefined) {
      return this.#refuse(`a capability is named ${quoteBytes(bytes)}, expected UTF-8`)
    }
    queue.skip(1 + length)
    this.#capabilities.push(capability)
    this.#capabilitiesLeft--
    return true
  }

  #refuse(problem: string): false {
    return this.#context.fail('ERR_MULTIFD_PROTOCOL', problem)
  }
}
