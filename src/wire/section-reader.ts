// Reading one section at a time, from its type byte to its footer: RAM's START, PART and END, and
// the self-delimiting sections of our own devices. It keeps which section ids are bound, and to
// what. The order of sections against commands and EOF is main-stream-reader.ts's part.

import { DEVICE_SECTIONS_MAX, DEVICE_STATE_BYTES_MAX } from '../kit/limits.ts'
import { decodeName, hex, quoteBytes } from './bytes.ts'
import {
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_FOOTER,
  QEMU_VM_SECTION_FULL,
  QEMU_VM_SECTION_START,
  RAM_IDSTR,
  RAM_INSTANCE_ID,
  RAM_VERSION_ID,
} from './constants.ts'
import type {
  DeviceSectionEvent,
  DeviceStateEvent,
  SectionName,
  StreamContext,
} from './main-stream-events.ts'
import { RamSectionReader } from './ram-section-reader.ts'

const FOOTER_BYTES = 5

/** A device whose id is bound. */
interface BoundDevice extends SectionName {
  /** Nothing of it may follow: it was one FULL section, or has had its END. */
  over: boolean
}

/** What is known of a device's section before its payload was read. */
type UnreadDevice = Omit<DeviceStateEvent, 'payload'> | Omit<DeviceSectionEvent, 'payload'>

export class SectionReader {
  readonly #context: StreamContext
  readonly #ram: RamSectionReader
  readonly #devices = new Map<number, BoundDevice>()
  #step: () => boolean = () => false
  #reading = 'a section'
  #over = true
  #gpaListed = false
  #own = false
  #ramSectionId: number | undefined
  #ramOver = false

  constructor(context: StreamContext) {
    this.#context = context
    this.#ram = new RamSectionReader(context)
  }

  /** True between sections. */
  get over(): boolean {
    return this.#over
  }

  /** True from the beginning of RAM's END section on. */
  get ramOver(): boolean {
    return this.#ramOver
  }

  /** A device that was begun by START and has had no END yet. */
  get unfinishedDevice(): SectionName | undefined {
    for (const device of this.#devices.values()) if (!device.over) return device
    return undefined
  }

  /** What is being read, for the error of a truncated stream. */
  get reading(): string {
    return this.#reading
  }

  /**
   * Begins a section; its type byte is the next one.
   * @param stream.gpaListed `x-ignore-shared` is on
   * @param stream.own the source is one of ours: its devices say how long their sections are
   */
  begin(type: number, stream: { gpaListed: boolean; own: boolean }): void {
    this.#over = false
    this.#gpaListed = stream.gpaListed
    this.#own = stream.own
    if (type === QEMU_VM_SECTION_START) {
      this.#enter(() => this.#readStart(), 'the beginning of a section')
    } else if (type === QEMU_VM_SECTION_FULL) {
      this.#enter(() => this.#readFull(), 'the name of a device section')
    } else {
      this.#enter(() => this.#readContinuation(), 'the beginning of a section')
    }
  }

  /** Consumes one element; false if more bytes are needed or the stream failed. */
  step(): boolean {
    return this.#step()
  }

  #enter(step: () => boolean, reading: string): true {
    this.#step = step
    this.#reading = reading
    return true
  }

  /** The name of a START or FULL section, type byte included; undefined if bytes are missing. */
  #takeSectionName(): SectionName | undefined {
    const { queue } = this.#context
    if (queue.available < 6) return undefined
    const nameEnd = 6 + queue.byteAt(5)
    if (queue.available < nameEnd + 8) return undefined
    const bytes = queue.peek(nameEnd).subarray(6)
    const idstr = decodeName(bytes)
    if (idstr === undefined) {
      this.#refuse(`a section is named ${quoteBytes(bytes)}, expected UTF-8`)
      return undefined
    }
    const sectionId = queue.be32At(1)
    if (sectionId === this.#ramSectionId || this.#devices.has(sectionId)) {
      this.#refuse(`section ${JSON.stringify(idstr)} has id ${sectionId}, which is already in use`)
      return undefined
    }
    const section = {
      sectionId,
      idstr,
      instanceId: queue.be32At(nameEnd),
      versionId: queue.be32At(nameEnd + 4),
    }
    queue.skip(nameEnd + 8)
    return section
  }

  #readStart(): boolean {
    const section = this.#takeSectionName()
    if (section === undefined) return false
    const { sectionId, idstr, instanceId, versionId } = section
    const name = JSON.stringify(idstr)
    if (idstr !== RAM_IDSTR || instanceId !== RAM_INSTANCE_ID) {
      if (this.#own) return this.#beginDevice(section)
      return this.#context.fail(
        'ERR_MULTIFD_UNSUPPORTED',
        `unknown section ${name}, instance ${instanceId}: only RAM can be sent while the guest runs; ` +
          'remove the device it belongs to, or turn its migration off at the source',
      )
    }
    if (this.#ramSectionId !== undefined) return this.#refuse('the RAM section is started twice')
    if (versionId !== RAM_VERSION_ID) {
      return this.#refuse(`the RAM section has version ${versionId}, expected ${RAM_VERSION_ID}`)
    }
    this.#ramSectionId = sectionId
    return this.#beginRamSection('start')
  }

  #beginDevice(section: SectionName): boolean {
    const name = JSON.stringify(section.idstr)
    if (this.#ramOver) return this.#refuse(`section ${name} is started after the end of RAM`)
    if (!this.#bind(section, false)) return false
    return this.#enterDevice({ kind: 'device-section', type: 'start', ...section })
  }

  #readContinuation(): boolean {
    const { queue } = this.#context
    if (queue.available < 5) return false
    const sectionId = queue.be32At(1)
    const last = queue.byteAt(0) === QEMU_VM_SECTION_END
    const device = this.#devices.get(sectionId)
    if (device !== undefined) return this.#continueDevice(device, last)
    if (sectionId !== this.#ramSectionId) {
      const expected = this.#ramSectionId ?? 'a START section first'
      return this.#refuse(`unknown section id ${sectionId}, expected that of RAM, ${expected}`)
    }
    if (this.#ramOver) return this.#refuse('the RAM section goes on after its end')
    queue.skip(5)
    this.#ramOver = last
    return this.#beginRamSection(last ? 'end' : 'part')
  }

  #continueDevice(device: BoundDevice, last: boolean): boolean {
    const name = JSON.stringify(device.idstr)
    if (device.over) return this.#refuse(`section ${name} goes on after its end`)
    if (last !== this.#ramOver) {
      return this.#refuse(
        last
          ? `section ${name} ends before RAM does, expected its END behind that of RAM`
          : `section ${name} goes on after the end of RAM, expected its END`,
      )
    }
    this.#context.queue.skip(5)
    device.over = last
    const { over: _, ...section } = device
    return this.#enterDevice({ kind: 'device-section', type: last ? 'end' : 'part', ...section })
  }

  #beginRamSection(type: 'start' | 'part' | 'end'): true {
    const sectionId = this.#ramSectionId ?? 0
    this.#context.emit({
      kind: 'section-start',
      type,
      sectionId,
      idstr: RAM_IDSTR,
      instanceId: RAM_INSTANCE_ID,
      versionId: RAM_VERSION_ID,
    })
    this.#ram.beginSection(this.#gpaListed)
    return this.#enter(() => this.#readRam(sectionId), 'the words of a RAM section')
  }

  #readRam(sectionId: number): boolean {
    this.#reading = this.#ram.reading
    if (!this.#ram.sectionOver) return this.#ram.step()
    return this.#enter(() => {
      if (!this.#takeFooter(sectionId)) return false
      this.#context.emit({ kind: 'section-end', sectionId })
      this.#over = true
      return true
    }, 'the footer of a RAM section')
  }

  #readFull(): boolean {
    const section = this.#takeSectionName()
    if (section === undefined || !this.#bind(section, true)) return false
    return this.#enterDevice({ kind: 'device-state', ...section })
  }

  /** Binds the id to a device; false if there are too many. */
  #bind(section: SectionName, over: boolean): boolean {
    if (this.#devices.size === DEVICE_SECTIONS_MAX) {
      return this.#context.fail(
        'ERR_MULTIFD_LIMIT',
        `there are more than ${DEVICE_SECTIONS_MAX} device sections`,
      )
    }
    this.#devices.set(section.sectionId, { ...section, over })
    return true
  }

  #enterDevice(section: UnreadDevice): true {
    return this.#enter(() => this.#readDeviceLength(section), 'the length of a device section')
  }

  #readDeviceLength(section: UnreadDevice): boolean {
    if (this.#context.queue.available < 4) return false
    const length = this.#context.queue.be32At(0)
    if (length > DEVICE_STATE_BYTES_MAX) {
      return this.#context.fail(
        'ERR_MULTIFD_LIMIT',
        `device ${JSON.stringify(section.idstr)} has ${length} bytes, expected at most ` +
          `${DEVICE_STATE_BYTES_MAX}`,
      )
    }
    this.#context.queue.skip(4)
    this.#context.queue.expect(length)
    return this.#enter(
      () => this.#readDevicePayload(section, length),
      `device ${JSON.stringify(section.idstr)}`,
    )
  }

  #readDevicePayload(section: UnreadDevice, length: number): boolean {
    if (this.#context.queue.available < length) return false
    const payload = this.#context.queue.take(length)
    return this.#enter(() => {
      if (!this.#takeFooter(section.sectionId)) return false
      this.#context.emit({ ...section, payload })
      this.#over = true
      return true
    }, 'the footer of a device section')
  }

  /** Consumes the footer; false if bytes are missing or it is wrong. */
  #takeFooter(sectionId: number): boolean {
    const { queue } = this.#context
    if (queue.available < FOOTER_BYTES) return false
    if (queue.byteAt(0) !== QEMU_VM_SECTION_FOOTER || queue.be32At(1) !== sectionId) {
      return this.#refuse(
        `got ${quoteBytes(queue.peek(FOOTER_BYTES))}, expected the footer of section ${sectionId} ` +
          `(${hex(QEMU_VM_SECTION_FOOTER)} and the id); leave send-section-footer on at the source`,
      )
    }
    queue.skip(FOOTER_BYTES)
    return true
  }

  #refuse(problem: string): false {
    return this.#context.fail('ERR_MULTIFD_PROTOCOL', problem)
  }
}
