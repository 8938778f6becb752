// What pages are compressed with: the options of a source, and whether this build has the method
// that a source asks its destination for. The methods themselves are native; their levels, and why
// one is not to be had, come from there.

import { MultifdError } from '../kit/errors.ts'
import { type NativeCompression, type NativeCompressionMethod, native } from '../kit/native.ts'
import { oneOf, wholeNumber } from '../kit/options.ts'

export interface CompressionSettings {
  compression: NativeCompression
  /** Undefined with `none`. */
  compressionLevel: number | undefined
}

/**
 * @throws TypeError or RangeError naming the option and what it got; MultifdError
 * ERR_MULTIFD_UNSUPPORTED where this build does not have the method.
 */
export function checkCompression(options: {
  compression?: NativeCompression
  compressionLevel?: number
  zeroCopy: string
}): CompressionSettings {
  const { compressionLevel: level, zeroCopy } = options
  const methods = native().compressionMethods()
  const names = methods.map(({ name }) => name)
  const compression = oneOf('compression', options.compression ?? 'none', names)
  if (compression === 'none') {
    if (level === undefined) return { compression, compressionLevel: undefined }
    throw new TypeError("compressionLevel is for compression 'zlib' or 'zstd', got 'none'")
  }
  if (zeroCopy === 'on') {
    throw new TypeError("zeroCopy 'on' sends pages as they are: it does not go with compression")
  }
  const { levelDefault, levelMin, levelMax } = requireCompression(compression)
  return {
    compression,
    compressionLevel: wholeNumber('compressionLevel', level ?? levelDefault, levelMin, levelMax),
  }
}

/** @throws MultifdError ERR_MULTIFD_UNSUPPORTED, with how to get it, where this build lacks it. */
export function requireCompression(name: NativeCompression): NativeCompressionMethod {
  const method = native()
    .compressionMethods()
    .find((candidate) => candidate.name === name)
  if (method !== undefined && method.reason === '') return method
  throw new MultifdError('ERR_MULTIFD_UNSUPPORTED', method?.reason ?? `there is no ${name}`)
}
