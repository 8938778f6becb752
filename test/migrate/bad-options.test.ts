// Bad options are refused at once and by name: every option of source and destination, unset where
// it must be set, of a wrong type, out of range, and misspelt. Guest memory's are in test/guest.

import { afterAll, describe, expect, it } from 'vitest'
import { MigrationDestination } from '../../src/destination.ts'
import { DirtyLog } from '../../src/guest/dirty-tracker.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { native } from '../../src/kit/native.ts'
import { MigrationSource } from '../../src/source.ts'
import { compressionsHere } from '../payload/channels.ts'

const before = native().census()
const memory = GuestMemory.openMemfd('guest.ram', 65536)
const other = GuestMemory.openMemfd('guest.ram', 65536)
const own = native().census()
const vmm = { stop: () => {}, resume: () => {} }
const zstdHere = compressionsHere().includes('zstd')
const device = { idstr: 'clock', save: () => new Uint8Array(), load: () => {} }

afterAll(async () => {
  await memory.close()
  await other.close()
  expect(native().census()).toEqual(before)
})

/** [what is wrong, the options, the error's class, what its sentence names] */
type Bad = [string, unknown, typeof Error, RegExp]

const badMemory: Bad[] = [
  ['no memory', { memory: undefined }, TypeError, /memory must be a GuestMemory, got undefined/],
  ['bytes as memory', { memory: new Uint8Array(4096) }, TypeError, /memory must be a GuestMemory/],
]
const badTimes = (name: string): Bad[] => [
  [`${name} of 0`, { [name]: 0 }, RangeError, new RegExp(`${name} must be .* got 0`)],
  [`${name} that is negative`, { [name]: -1 }, RangeError, new RegExp(`${name} .* got -1`)],
  [`${name} of half`, { [name]: 0.5 }, RangeError, new RegExp(`${name} .* got 0.5`)],
  [`${name} as text`, { [name]: '10' }, RangeError, new RegExp(`${name} .* got "10"`)],
  [
    `${name} that is no number`,
    { [name]: Number.NaN },
    RangeError,
    new RegExp(`${name} .* got NaN`),
  ],
  [
    `${name} of two days`,
    { [name]: 172_800_000 },
    RangeError,
    new RegExp(`${name} .* to 86400000`),
  ],
]
const badDevices: Bad[] = [
  [
    'devices that are no list',
    { devices: device },
    TypeError,
    /devices must be an array, got an obj/,
  ],
  ['no device', { devices: [null] }, TypeError, /devices\[0\] must be a device, got null/],
  [
    'a device without a name',
    { devices: [{ ...device, idstr: undefined }] },
    TypeError,
    /idstr of dev/,
  ],
  ['an empty name', { devices: [{ ...device, idstr: '' }] }, RangeError, /idstr .* 1 to 255 bytes/],
  ['a name with NUL', { devices: [{ ...device, idstr: 'a\0b' }] }, RangeError, /without NUL/],
  ['half a character', { devices: [{ ...device, idstr: 'a\ud800' }] }, RangeError, /of UTF-8/],
  [
    'a name too long',
    { devices: [{ ...device, idstr: 'ä'.repeat(128) }] },
    RangeError,
    /256 bytes/,
  ],
  ['an instance below 0', { devices: [{ ...device, instanceId: -1 }] }, RangeError, /instanceId/],
  [
    'a version too large',
    { devices: [{ ...device, versionId: 2 ** 32 }] },
    RangeError,
    /versionId/,
  ],
  ['no save', { devices: [{ ...device, save: undefined }] }, TypeError, /save of device "clock"/],
  [
    'no load',
    { devices: [{ ...device, load: 'yes' }] },
    TypeError,
    /load of device "clock".*"yes"/,
  ],
  ['one device twice', { devices: [device, device] }, TypeError, /two devices are named clock\/0/],
]
const badUuids: Bad[] = [
  ['a short uuid', { uuid: '1234' }, TypeError, /uuid: .*"1234" is not of the form/],
  [
    'a uuid of bytes',
    { uuid: new Uint8Array(16) },
    TypeError,
    /uuid must be a string, got an object/,
  ],
]
const badPlaintext: Bad[] = [
  ['allowPlaintext as text', { allowPlaintext: 'yes' }, TypeError, /allowPlaintext .* got "yes"/],
  [
    'allowPlaintext as number',
    { allowPlaintext: 1 },
    TypeError,
    /allowPlaintext must be true or false/,
  ],
]

describe('MigrationSource refuses', () => {
  const bad: Bad[] = [
    ...badMemory,
    ...badDevices,
    ...badUuids,
    ...badPlaintext,
    ...badTimes('connectTimeoutMs'),
    ...badTimes('peerTimeoutMs'),
    [
      'no vmm',
      { vmm: undefined },
      TypeError,
      /vmm must be an object with stop and resume, got undef/,
    ],
    [
      'a vmm that cannot stop',
      { vmm: { resume: vmm.resume } },
      TypeError,
      /vmm.stop must be a func/,
    ],
    [
      'a vmm that cannot resume',
      { vmm: { stop: vmm.stop } },
      TypeError,
      /vmm.resume must be a func/,
    ],
    ['no channels', { multifdChannels: 0 }, RangeError, /multifdChannels .* 1 to 255, got 0/],
    ['256 channels', { multifdChannels: 256 }, RangeError, /multifdChannels .* got 256/],
    ['an unknown engine', { engine: 'rdma' }, TypeError, /engine must be one of .*, got "rdma"/],
    [
      'zeroCopy as boolean',
      { zeroCopy: true },
      TypeError,
      /zeroCopy must be one of auto, off, on, got true/,
    ],
    [
      'discards as text',
      { vmm: { ...vmm, discards: 'no' } },
      TypeError,
      /vmm.discards must be true or false, got "no"/,
    ],
    ...['auto', 'off', undefined].map((zeroCopy): Bad => {
      const given = { flushThresholds: { highWaterBytes: 4096 }, ...(zeroCopy && { zeroCopy }) }
      const sentence = new RegExp(`are for zeroCopy: 'on', got zeroCopy: '${zeroCopy ?? 'auto'}'`)
      return [`thresholds with zeroCopy ${zeroCopy}`, given, TypeError, sentence]
    }),
    [
      'a compression nobody knows',
      { compression: 'lz4' },
      TypeError,
      /of none, zlib, zstd, got "lz/,
    ],
    ['compression as boolean', { compression: true }, TypeError, /compression must be .* got true/],
    [
      'a level of nothing',
      { compressionLevel: 1 },
      TypeError,
      /compressionLevel is for compressio/,
    ],
    ...[-1, 10, 0.5, Number.NaN, '1'].map((compressionLevel): Bad => {
      const given = { compression: 'zlib', compressionLevel }
      return [
        `zlib level ${compressionLevel}`,
        given,
        RangeError,
        /compressionLevel .* 0 to 9, got/,
      ]
    }),
    ...(zstdHere ? [-1, 21, Infinity] : []).map((compressionLevel): Bad => {
      const given = { compression: 'zstd', compressionLevel }
      return [
        `zstd level ${compressionLevel}`,
        given,
        RangeError,
        /compressionLevel .* 0 to 20, go/,
      ]
    }),
    [
      'compressed pages from where they lie',
      { compression: 'zlib', zeroCopy: 'on' },
      TypeError,
      /zeroCopy 'on' sends pages as they are: it does not go with compression/,
    ],
    ['an unknown tracker', { dirty: 'kvm' }, TypeError, /dirty must be one of auto, .*, got "kvm"/],
    ['the log of other memory', { dirty: new DirtyLog(other) }, TypeError, /dirty is .* another/],
    [
      'a negative limit',
      { maxBandwidthBytesPerSecond: -1 },
      RangeError,
      /maxBandwidthBytesPerSecond .* got -1/,
    ],
    ['a limit without end', { maxBandwidthBytesPerSecond: Infinity }, RangeError, /got Infinity/],
    ['a downtime limit in hours', { downtimeLimitMs: 3_600_000 }, RangeError, /downtimeLimitMs/],
    ['thresholds that are none', { flushThresholds: 5 }, TypeError, /flushThresholds .* got 5/],
    ['too few thresholds', { flushThresholds: [{}] }, RangeError, /flushThresholds .* from 2 to 2/],
    [
      'a list with a hole',
      { flushThresholds: [{}, null] },
      TypeError,
      /flushThresholds\[1\] .* null/,
    ],
    [
      'a threshold misspelt',
      { flushThresholds: { highWater: 1 } },
      TypeError,
      /no option "highWater"/,
    ],
    [
      'a low mark above the high one',
      { flushThresholds: { highWaterBytes: 1, lowWaterBytes: 2 } },
      RangeError,
      /lowWaterBytes is 2/,
    ],
    [
      'a high mark as text',
      { flushThresholds: { highWaterBytes: '1' } },
      RangeError,
      /highWaterBytes/,
    ],
    [
      'a misspelt option',
      { multifdChannel: 4 },
      TypeError,
      /MigrationSource has no option "multifdCh/,
    ],
    ['an option of the destination', { handshakeTimeoutMs: 1 }, TypeError, /"handshakeTimeoutMs"/],
  ]
  it.each(bad)('%s', (_name, options, kind, sentence) => {
    const make = (): unknown => new MigrationSource({ memory, vmm, ...(options as object) })
    expect(make).toThrow(kind)
    expect(make).toThrow(sentence)
    expect(native().census()).toEqual(own)
  })

  it.each([undefined, null, 5, 'memory', []])('%s for options', (options) => {
    const make = (): unknown => new MigrationSource(options as never)
    expect(make).toThrow(/MigrationSource needs an object of options/)
  })

  it('in migrate: a bad URI, a misspelt option, a signal that is none', () => {
    const source = new MigrationSource({ memory, vmm })
    const uris = [
      '',
      'localhost:1',
      'tcp:host',
      'tcp:host:65536',
      'udp:host:1',
      'unix:',
      'tcp:[::1:5',
    ]
    for (const uri of [...uris, 5, undefined]) {
      expect(() => source.migrate(uri as string)).toThrow(TypeError)
      expect(() => source.migrate(uri as string)).toThrow(/migration URI/)
    }
    const uri = 'tcp:127.0.0.1:1'
    expect(() => source.migrate(uri, { sigal: undefined } as never)).toThrow(/no option "sigal"/)
    expect(() => source.migrate(uri, { signal: 'now' } as never)).toThrow(
      /signal must be an AbortS/,
    )
    expect(() => source.migrate(uri, null as never)).toThrow(/migrate needs an object/)
  })

  it('beyond this machine, unless allowPlaintext says so', async () => {
    const source = new MigrationSource({ memory, vmm })
    await expect(source.migrate('tcp:192.0.2.1:4444').result).rejects.toMatchObject({
      code: 'ERR_MULTIFD_UNSUPPORTED',
      message: expect.stringMatching(/192.0.2.1 is not on this machine.*allowPlaintext: true/),
    })
  })
})

describe('MigrationDestination.listen refuses', () => {
  const bad: Bad[] = [
    ...badMemory,
    ...badDevices,
    ...badUuids,
    ...badPlaintext,
    ...badTimes('handshakeTimeoutMs'),
    ...badTimes('peerTimeoutMs'),
    [
      'memoryIsZero as number',
      { memoryIsZero: 0 },
      TypeError,
      /memoryIsZero must be true or false/,
    ],
    [
      'a signal that is none',
      { signal: {} },
      TypeError,
      /signal must be an AbortSignal, got an obj/,
    ],
    [
      'a misspelt option',
      { memoryIsZeroed: true },
      TypeError,
      /listen has no option "memoryIsZeroed"/,
    ],
    ['an option of the source', { multifdChannels: 2 }, TypeError, /no option "multifdChannels"/],
  ]
  it.each(bad)('%s', async (_name, options, kind, sentence) => {
    const listening = MigrationDestination.listen('tcp:127.0.0.1:0', {
      memory,
      ...(options as object),
    })
    const error = await listening.then(
      () => undefined,
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(kind)
    expect((error as Error).message).toMatch(sentence)
    expect(native().census()).toEqual(own)
  })

  it('an address that is bad, taken, or not of this machine', async () => {
    await expect(MigrationDestination.listen('tcp:nowhere', { memory })).rejects.toThrow(TypeError)
    await expect(MigrationDestination.listen('tcp:0.0.0.0:0', { memory })).rejects.toMatchObject({
      code: 'ERR_MULTIFD_UNSUPPORTED',
    })
    await using first = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory })
    await expect(MigrationDestination.listen(first.uri, { memory: other })).rejects.toMatchObject({
      code: 'ERR_MULTIFD_CHANNEL',
      errno: 'EADDRINUSE',
    })
    const long = `unix:/${'x'.repeat(200)}`
    await expect(MigrationDestination.listen(long, { memory: other })).rejects.toMatchObject({
      code: 'ERR_MULTIFD_LIMIT',
      message: expect.stringMatching(/UNIX path has 201 bytes, expected 1 to 107/),
    })
  })
})
