// Gives the firmware guest's 64 KiB image to v86. The image travels as text inside
// firmware-image.ts, because tsc copies no binary files into dist/; firmware.S is its source,
// build-firmware.sh writes it.
import { gunzipSync } from 'node:zlib'
import { FIRMWARE_GZIP_BASE64 } from './firmware-image.ts'

export const FIRMWARE_SIZE_BYTES = 64 * 1024

/** The firmware image in an ArrayBuffer of its own: v86 refuses views and Node's pooled buffers. */
export function firmwareImage(): ArrayBuffer {
  const image = gunzipSync(Buffer.from(FIRMWARE_GZIP_BASE64, 'base64'))
  const copy = new ArrayBuffer(image.length)
  new Uint8Array(copy).set(image)
  return copy
}
