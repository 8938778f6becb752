// What pages are compressed with: the options of a source, and whether this build has the method
// that a source asks its destination for. The methods themselves are native; their levels, and why
// one is not to be had, come from there.

import { MultifdError } from '../kit/errors.ts'
import {
  COMPRESSIONS,
  type NativeCompression,
  type NativeCompressionMethod,
  native,
} from '../kit/native.ts'
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
  const compression = oneOf('compression', options.compression ?? 'none', COMPRESSIONS)
  if (compression === 'none') {
    if (level === undefined) return { compression, compressionLevel: undefined }
    throw new TypeError("compressionLevel is for compression 'zlib' or 'zstd', got 'none'")
  }
  if (zeroCopy === 'on') {
    throw new TypeError("zeroCopy 'on' sends pages as they are: it does not go with compression")
  }
  requireCompression(compression)
  return { compression, compressionLevel: checkLevel('compressionLevel', compression, level) }
}

/** QEMU's levels of the method, and its default. @throws RangeError naming the option */
export function checkLevel(
  option: string,
  name: NativeCompression,
  level: number | undefined,
): number {
  const { levelDefault, levelMin, levelMax } = methodOf(name)
  return wholeNumber(option, level ?? levelDefault, levelMin, levelMax)
}

/** @throws MultifdError ERR_MULTIFD_UNSUPPORTED, with how to get it, where this build lacks it. */
export function requireCompression(name: NativeCompression): NativeCompressionMethod {
  const method = methodOf(name)
  if (method.reason === '') return method
  throw new MultifdError('ERR_MULTIFD_UNSUPPORTED', method.reason)
}

function methodOf(name: NativeCompression): NativeCompressionMethod {
  const methods = native().compressionMethods()
  return methods.find((method) => method.name === name) as NativeCompressionMethod
}
