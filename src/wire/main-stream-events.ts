// What a reader of the main stream reports, and the small contract its parts share. Types only: the
// reader produces these, the destination and the snapshot room consume them.

import type { ErrorCode } from '../kit/errors.ts'
import type { ByteQueue } from './byte-queue.ts'
import type { RamBlockEntry } from './ram-words.ts'

/** The configuration section: who the source is. */
export interface Configuration {
  /** Resolved versioned machine, e.g. `pc-q35-7.2`, or `multifd/1` from one of our own ends. */
  machineName: string
  /**
   * The validated capabilities, in the order of the stream; empty when the subsection is absent.
   */
  capabilities: readonly string[]
  /** 16 raw bytes, only when the source validates it. */
  uuid?: Uint8Array
}

/** The name and number of a section. */
export interface SectionName {
  /** The source's handle for the section; means nothing beyond one stream. */
  sectionId: number
  idstr: string
  instanceId: number
  versionId: number
}

export interface HeaderEvent {
  kind: 'header'
  version: number
}

export interface ConfigurationEvent extends Configuration {
  kind: 'configuration'
}

/** A RAM section begins: the words follow, then `section-end`. */
export interface SectionStartEvent extends SectionName {
  kind: 'section-start'
  type: 'start' | 'part' | 'end'
}

/** START's block list. The lengths are page multiples and add up to the total. */
export interface RamMemSizeEvent {
  kind: 'ram-mem-size'
  totalBytes: number
  blocks: readonly RamBlockEntry[]
}

/**
 * Pages that are zero now: `pages` of them from this byte offset of the block on. How words are
 * gathered into runs follows the pushes; only which pages they name has a meaning.
 */
export interface RamZeroEvent {
  kind: 'ram-zero'
  idstr: string
  offset: number
  pages: number
}

/**
 * Pages from this byte offset of the block on; `contents` is a copy of their bytes, whole pages.
 * Gathered as zero pages are.
 */
export interface RamPageEvent {
  kind: 'ram-page'
  idstr: string
  offset: number
  contents: Uint8Array
}

/** MULTIFD_FLUSH: a sync point in the per-round dialect. */
export interface RamFlushEvent {
  kind: 'ram-flush'
}

/** EOS: a sync point in the per-section dialect, otherwise only the end of the section's words. */
export interface RamEosEvent {
  kind: 'ram-eos'
}

/** The footer of a RAM section was there and right. */
export interface SectionEndEvent {
  kind: 'section-end'
  sectionId: number
}

/** One whole device of one of our own sources, saved after the stop; footer checked. */
export interface DeviceStateEvent extends SectionName {
  kind: 'device-state'
  payload: Uint8Array
}

/**
 * One section of a device of one of our own sources that has several, footer checked: START and any
 * number of PARTs before the end of RAM, END after it.
 */
export interface DeviceSectionEvent extends SectionName {
  kind: 'device-section'
  type: 'start' | 'part' | 'end'
  payload: Uint8Array
}

/** A command; number and data length have been checked. */
export interface CommandEvent {
  kind: 'command'
  command: number
  data: Uint8Array
}

/** EOF of one of our own streams (QEMU's is inside the device tail). */
export interface EofEvent {
  kind: 'eof'
}

export interface VmdescriptionEvent {
  kind: 'vmdescription'
  text: string
}

/**
 * Bytes of a QEMU stream from the first FULL section behind RAM's END on, opaque and in order.
 * Their cut follows the pushes: only the concatenation has a meaning.
 */
export interface DeviceTailEvent {
  kind: 'device-tail'
  bytes: Uint8Array
}

/**
 * The vmdescription at the end of a device tail fits the sections before it: the stream is
 * complete.
 */
export interface DeviceTailEndEvent {
  kind: 'device-tail-end'
  /** Bytes of the FULL sections, before EOF and vmdescription. */
  deviceBytes: number
  vmdescription: string
}

export type MainStreamEvent =
  | HeaderEvent
  | ConfigurationEvent
  | SectionStartEvent
  | RamMemSizeEvent
  | RamZeroEvent
  | RamPageEvent
  | RamFlushEvent
  | RamEosEvent
  | SectionEndEvent
  | DeviceStateEvent
  | DeviceSectionEvent
  | CommandEvent
  | EofEvent
  | VmdescriptionEvent
  | DeviceTailEvent
  | DeviceTailEndEvent

/** What the parts of the reader share: the bytes, and where events and the first error go. */
export interface StreamContext {
  readonly queue: ByteQueue
  emit(event: MainStreamEvent): void
  /** Fails the stream for good; adds the position. Returns false for `return context.fail(...)`. */
  fail(code: ErrorCode, problem: string): false
}
