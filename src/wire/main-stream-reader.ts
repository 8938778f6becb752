// The incremental reader of a main stream, ours or QEMU's: bytes in any split become typed events
// or the first error. It is total: no input throws, loops or makes it hold more than one element of
// bounded size. It knows no socket and no guest memory; what events lead to is decided by the
// destination.

import { type ErrorCode, fail, MultifdError, ok, type Result } from '../kit/errors.ts'
import { VMDESC_BYTES_MAX } from '../kit/limits.ts'
import { ByteQueue } from './byte-queue.ts'
import { decodeText, hex, quoteBytes } from './bytes.ts'
import { commandProblem } from './command.ts'
import { ConfigurationReader } from './configuration.ts'
import {
  QEMU_VM_COMMAND,
  QEMU_VM_CONFIGURATION,
  QEMU_VM_EOF,
  QEMU_VM_FILE_MAGIC,
  QEMU_VM_FILE_VERSION,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_FULL,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_START,
  QEMU_VM_VMDESCRIPTION,
} from './constants.ts'
import { DeviceTail } from './device-tail.ts'
import { isOwnMachine, OWN_COMMAND_COMMIT, OWN_MACHINE_NAME } from './dialect.ts'
import type { Configuration, MainStreamEvent, StreamContext } from './main-stream-events.ts'
import { SectionReader } from './section-reader.ts'

/** Events in order, and the first error, after which nothing is read any more. */
export interface MainStreamReading {
  events: MainStreamEvent[]
  /** Of each event, the stream position behind its last byte: where a relay may cut. */
  ends: number[]
  error: MultifdError | undefined
}

/** How a complete stream ended. */
export interface MainStreamEnd {
  /** A vmdescription was at the end; QEMU can be told to send none. */
  vmdescription: boolean
  /** Our own source's commit command came. */
  committed: boolean
}

const SECTION_TYPES = [
  QEMU_VM_SECTION_START,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_FULL,
]

export class MainStreamReader {
  readonly #queue = new ByteQueue()
  readonly #context: StreamContext = {
    queue: this.#queue,
    emit: (event) => {
      this.#events.push(event)
    },
    fail: (code, problem) => this.#fail(code, problem),
  }
  readonly #configurationReader = new ConfigurationReader(this.#context)
  readonly #sections = new SectionReader(this.#context)
  readonly #tail = new DeviceTail()
  #events: MainStreamEvent[] = []
  #error: MultifdError | undefined
  #step: () => boolean = () => this.#readMagic()
  #reading = 'the header'
  #openingBytes: number | undefined
  #machine: Configuration = { machineName: '', capabilities: [] }
  #inTail = false
  #eofSeen = false
  #vmdescriptionSeen = false
  #committed = false

  /** Bytes of the header and the configuration section, once they were read. */
  get openingBytes(): number | undefined {
    return this.#openingBytes
  }

  /** Takes the next bytes, split in any way. After an error it stays failed. */
  push(bytes: Uint8Array): MainStreamReading {
    this.#events = []
    if (this.#error === undefined) this.#queue.append(bytes)
    const ends: number[] = []
    let progress = this.#error === undefined
    while (progress && this.#error === undefined) {
      progress = this.#step() // consumes one element at most
      while (ends.length < this.#events.length) ends.push(this.#queue.position)
    }
    const events = this.#events
    this.#events = []
    return { events, ends, error: this.#error }
  }

  /** The peer closed its end: whether the stream was complete, or where and in what it stopped. */
  end(): Result<MainStreamEnd> {
    if (this.#error !== undefined) return { ok: false, error: this.#error }
    const received = this.#queue.position + this.#queue.available
    const atEnd = this.#inTail
      ? this.#tail.mayEndHere()
      : this.#eofSeen && this.#queue.available === 0
    if (atEnd) return ok({ vmdescription: this.#vmdescriptionSeen, committed: this.#committed })
    return fail(
      'ERR_MULTIFD_PEER_CLOSED',
      `the main stream ended at byte ${received} while reading ${this.#reading}; the migration is ` +
        'incomplete, look for the reason at the source',
    )
  }

  #enter(step: () => boolean, reading: string): true {
    this.#step = step
    this.#reading = reading
    return true
  }

  #readMagic(): boolean {
    if (this.#queue.available < 4) return false
    if (this.#queue.be32At(0) !== QEMU_VM_FILE_MAGIC) {
      return this.#fail(
        'ERR_MULTIFD_HANDSHAKE',
        `got ${quoteBytes(this.#queue.peek(4))}, expected the migration magic "QEVM" ` +
          `(${hex(QEMU_VM_FILE_MAGIC)}); the peer is not a migration source`,
      )
    }
    this.#queue.skip(4)
    return this.#enter(() => this.#readVersion(), 'the header')
  }

  #readVersion(): boolean {
    if (this.#queue.available < 4) return false
    const version = this.#queue.be32At(0)
    if (version !== QEMU_VM_FILE_VERSION) {
      return this.#fail(
        'ERR_MULTIFD_HANDSHAKE',
        `the stream has version ${version}, expected ${QEMU_VM_FILE_VERSION}`,
      )
    }
    this.#queue.skip(4)
    this.#events.push({ kind: 'header', version })
    return this.#enter(() => this.#readConfigurationType(), 'the configuration section')
  }

  #readConfigurationType(): boolean {
    if (this.#queue.available < 1) return false
    const type = this.#queue.byteAt(0)
    if (type !== QEMU_VM_CONFIGURATION) {
      return this.#refuse(
        `got section type ${hex(type, 2)}, expected the configuration section (0x07); ` +
          'leave send-configuration on at the source',
      )
    }
    this.#queue.skip(1)
    return this.#enter(() => this.#readConfiguration(), 'the configuration section')
  }

  #readConfiguration(): boolean {
    if (!this.#configurationReader.step()) return false
    const configuration = this.#configurationReader.result
    if (configuration === undefined) return true
    const { machineName, capabilities } = configuration
    if (isOwnMachine(machineName) && machineName !== OWN_MACHINE_NAME) {
      return this.#unsupported(
        `the source is ${JSON.stringify(machineName)}, this end speaks ${OWN_MACHINE_NAME}; ` +
          'run the same version on both ends',
      )
    }
    if (capabilities.includes('mapped-ram')) {
      return this.#unsupported('the source has mapped-ram on, expected a plain stream; turn it off')
    }
    this.#machine = configuration
    this.#openingBytes = this.#queue.position
    this.#events.push({ kind: 'configuration', ...configuration })
    return this.#betweenSections()
  }

  #betweenSections(): true {
    return this.#enter(() => this.#readType(), 'the next section')
  }

  get #own(): boolean {
    return isOwnMachine(this.#machine.machineName)
  }

  #readType(): boolean {
    if (this.#queue.available < 1) return false
    const type = this.#queue.byteAt(0)
    if (type === QEMU_VM_COMMAND) return this.#enter(() => this.#readCommand(), 'a command')
    if (this.#eofSeen) return this.#readTypeAfterEof(type)
    if (type === QEMU_VM_SECTION_FULL && !this.#own) return this.#beginTail()
    if (SECTION_TYPES.includes(type)) {
      const gpaListed = this.#machine.capabilities.includes('x-ignore-shared')
      this.#sections.begin(type, { gpaListed, own: this.#own })
      return this.#enter(() => this.#readSection(), 'a section')
    }
    if (type === QEMU_VM_EOF) return this.#readEof()
    return this.#refuse(`got section type ${hex(type, 2)}, expected a section, a command or EOF`)
  }

  #readSection(): boolean {
    if (this.#sections.over) return this.#betweenSections()
    const progress = this.#sections.step()
    this.#reading = this.#sections.reading
    return progress
  }

  /** From here on QEMU's sections do not say how long they are. */
  #beginTail(): boolean {
    if (!this.#sections.ramOver) {
      return this.#unsupported(
        'a device section comes before the end of RAM, and its length cannot be known; expected the ' +
          'RAM section first (remove devices with early state, such as virtio-mem, from the source)',
      )
    }
    this.#inTail = true
    return this.#enter(() => this.#readTail(), 'the device sections')
  }

  #readTypeAfterEof(type: number): boolean {
    if (type === QEMU_VM_VMDESCRIPTION && !this.#vmdescriptionSeen && !this.#committed) {
      return this.#enter(() => this.#readVmdescription(), 'the vmdescription')
    }
    return this.#refuse(
      `got the byte ${hex(type, 2)} behind the end of the stream, expected nothing more`,
    )
  }

  #readEof(): boolean {
    if (!this.#sections.ramOver) return this.#refuse('EOF comes before the end of the RAM section')
    const unfinished = this.#sections.unfinishedDevice
    if (unfinished !== undefined) {
      return this.#refuse(`EOF comes before the end of section ${JSON.stringify(unfinished.idstr)}`)
    }
    this.#queue.skip(1)
    this.#eofSeen = true
    this.#events.push({ kind: 'eof' })
    return this.#betweenSections()
  }

  #readCommand(): boolean {
    const queue = this.#queue
    if (queue.available < 5) return false
    const command = queue.be16At(1)
    const length = queue.be16At(3)
    const stage = this.#eofSeen ? 'after-eof' : 'before-eof'
    const problem = commandProblem(command, length, { own: this.#own, stage })
    if (problem !== undefined) return this.#fail(problem.code, problem.text)
    if (this.#committed) return this.#refuse('the commit command came twice, expected nothing more')
    if (queue.available < 5 + length) return false
    queue.skip(5)
    this.#committed = command === OWN_COMMAND_COMMIT
    this.#events.push({ kind: 'command', command, data: queue.take(length) })
    return this.#betweenSections()
  }

  #readVmdescription(): boolean {
    const queue = this.#queue
    if (queue.available < 5) return false
    const length = queue.be32At(1)
    if (length > VMDESC_BYTES_MAX) {
      return this.#fail(
        'ERR_MULTIFD_LIMIT',
        `the vmdescription has ${length} bytes, expected at most ${VMDESC_BYTES_MAX}`,
      )
    }
    if (queue.available < 5 + length) return false
    const text = decodeText(queue.peek(5 + length).subarray(5))
    if (text === undefined) return this.#refuse('the vmdescription is not UTF-8')
    queue.skip(5 + length)
    this.#vmdescriptionSeen = true
    this.#events.push({ kind: 'vmdescription', text })
    return this.#betweenSections()
  }

  #readTail(): boolean {
    const queue = this.#queue
    if (queue.available === 0) return false
    if (this.#vmdescriptionSeen) return this.#readTypeAfterEof(queue.byteAt(0))
    const bytes = queue.peek(queue.available)
    const used = this.#tail.push(bytes)
    this.#events.push({ kind: 'device-tail', bytes: queue.take(used) })
    const { deviceBytes, vmdescription } = this.#tail
    if (deviceBytes === undefined) return true
    this.#vmdescriptionSeen = true
    this.#events.push({ kind: 'device-tail-end', deviceBytes, vmdescription })
    return true
  }

  #refuse(problem: string): false {
    return this.#fail('ERR_MULTIFD_PROTOCOL', problem)
  }

  #unsupported(problem: string): false {
    return this.#fail('ERR_MULTIFD_UNSUPPORTED', problem)
  }

  #fail(code: ErrorCode, problem: string): false {
    this.#error = new MultifdError(code, `main stream, byte ${this.#queue.position}: ${problem}`)
    this.#queue.clear()
    return false
  }
}
