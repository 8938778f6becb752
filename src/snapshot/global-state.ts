// The one device section of a snapshot that we change: `globalstate` says whether the guest runs
// when it was loaded. It is found by the lengths in the vmdescription, never by its bytes, which
// may also stand in a disk's or a network card's state.

import { fail, ok, type Result } from '../kit/errors.ts'
import { concatBytes, encodeCounted, encodeText, viewOf } from '../wire/bytes.ts'
import { QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_FULL } from '../wire/constants.ts'
import { DeviceTail } from '../wire/device-tail.ts'
import { type DescribedDevice, describedDevices } from '../wire/vmdescription.ts'

const IDSTR = 'globalstate'
/** be32 length of the text and its NUL, and room for 100 bytes. */
const PAYLOAD_BYTES = 104
const FOOTER_BYTES = 5

/**
 * The device tail of a guest that is stopped when it was loaded: a copy, everything else as it was.
 * Fails with ERR_MULTIFD_UNSUPPORTED where the section cannot be found beyond doubt.
 */
export function withPausedGuest(tail: Uint8Array): Result<Uint8Array> {
  const sections = new DeviceTail()
  sections.push(tail)
  const devices = describedDevices(sections.vmdescription)
  if (sections.deviceBytes === undefined || devices === undefined) {
    return refuse('it has no vmdescription, which says where it is')
  }
  const at = offsetOf(devices)
  if (at === undefined) return refuse('there is none')
  const section = tail.subarray(at.from, at.to)
  const payloadAt = section.length - FOOTER_BYTES - PAYLOAD_BYTES
  if (!isGlobalState(section, payloadAt)) return refuse('it is not of the form that is known')
  const paused = Uint8Array.from(tail)
  paused.set(encodeRunState('paused'), at.from + payloadAt)
  return ok(paused)
}

function offsetOf(devices: readonly DescribedDevice[]): { from: number; to: number } | undefined {
  let from = 0
  for (const { idstr, sectionBytes } of devices) {
    if (idstr === IDSTR) return { from, to: from + sectionBytes }
    from += sectionBytes
  }
  return undefined
}

/** FULL, be32 id, counted name, be32 instance, be32 version, payload, footer with the same id. */
function isGlobalState(section: Uint8Array, payloadAt: number): boolean {
  const name = encodeCounted('section', IDSTR)
  if (payloadAt !== 1 + 4 + name.length + 4 + 4) return false
  const view = viewOf(section)
  const footerAt = section.length - FOOTER_BYTES
  const runStateBytes = view.getUint32(payloadAt)
  return (
    view.getUint8(0) === QEMU_VM_SECTION_FULL &&
    name.every((byte, index) => section[5 + index] === byte) &&
    view.getUint8(footerAt) === QEMU_VM_SECTION_FOOTER &&
    view.getUint32(footerAt + 1) === view.getUint32(1) &&
    runStateBytes >= 1 &&
    runStateBytes <= PAYLOAD_BYTES - 4 &&
    section[payloadAt + 4 + runStateBytes - 1] === 0
  )
}

function encodeRunState(state: string): Uint8Array {
  const payload = new Uint8Array(PAYLOAD_BYTES)
  const text = concatBytes(encodeText(state), Uint8Array.of(0))
  viewOf(payload).setUint32(0, text.length)
  payload.set(text, 4)
  return payload
}

function refuse(why: string): Result<Uint8Array> {
  return fail(
    'ERR_MULTIFD_UNSUPPORTED',
    `the snapshot's globalstate section, which would have to say "paused", cannot be changed: ${why}; ` +
      'start the QEMU that receives it with -S instead, and leave paused out',
  )
}
