// What sendSnapshot makes of snapshots that are not whole, and of destinations that fall silent,
// close, or say something else than a QEMU would.

import { appendFileSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { native } from '../../src/kit/native.ts'
import type { SendSnapshotOptions } from '../../src/snapshot/send-options.ts'
import { sendSnapshot } from '../../src/snapshot/send-snapshot.ts'
import { readManifest, SnapshotDirectory } from '../../src/snapshot/snapshot-directory.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { encodePong, encodeShut } from '../../src/wire/return-path.ts'
import { type ReplayBehaviour, ReplayDestination } from '../support/replay-destination.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { contentsOf, storeSnapshot } from '../support/vector-snapshot.ts'

let scratch = ''
let directory = ''
let before: Held
beforeEach(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-send-'))
  directory = join(scratch, 'vm')
  await storeSnapshot(directory, contentsOf('q72-legacy-none'))
  before = held()
})
afterEach(() => {
  rmSync(scratch, { recursive: true, force: true })
  expectNothingLeft(before)
})

const legacy = { channels: 2, dialect: 'per-section' } as const

/** The error of a destination that must fail. */
async function failureOf(
  behaviour: Partial<ReplayBehaviour>,
  options: SendSnapshotOptions = {},
): Promise<string> {
  await using destination = await ReplayDestination.listen({ ...legacy, ...behaviour })
  const [outcome] = await sendSnapshot(directory, destination.uri, options).result
  if (outcome === undefined || outcome.status === 'completed') throw new Error('it did not fail')
  return `${outcome.status}: ${outcome.error.code} ${outcome.error.message}`
}

async function flipByte(file: string, at: number): Promise<void> {
  await using handle = await open(join(directory, file), 'r+')
  const byte = Buffer.alloc(1)
  await handle.read(byte, 0, 1, at)
  await handle.write(Buffer.of((byte[0] ?? 0) ^ 1), 0, 1, at)
}

describe('a snapshot that is not whole is refused before anybody is connected', () => {
  const ram = 'ram/0-pc.ram.bin'
  const damages: [string, () => unknown, RegExp][] = [
    ['a RAM file is missing', () => rmSync(join(directory, ram)), /0-pc\.ram\.bin is missing/],
    ['a RAM file is cut', () => truncateSync(join(directory, ram), 4096), /4096 bytes.*was cut/],
    ['a byte of RAM differs', () => flipByte(ram, 0x200_123), /0-pc\.ram\.bin is not what/],
    ['a hole has become data', () => flipByte(ram, 0x3f_f000), /0-pc\.ram\.bin is not what/],
    ['a byte of the devices differs', () => flipByte('devices.bin', 99), /devices\.bin is not/],
    ['the configuration differs', () => flipByte('config.bin', 20), /config\.bin is not what/],
    ['the configuration is longer', () => appendFileSync(at('config.bin'), 'x'), /24 bytes, the/],
    ['the manifest is missing', () => rmSync(at('manifest.json')), /no snapshot.*manifest\.json/],
    ['the manifest is damaged', () => writeFileSync(at('manifest.json'), '{}'), /format undefined/],
  ]
  const at = (file: string): string => join(directory, file)

  it.each(damages)('%s', async (_name, damage, sentence) => {
    await damage()
    await using destination = await ReplayDestination.listen(legacy)
    const sending = sendSnapshot(directory, [destination.uri, destination.uri])
    await expect(sending.result).rejects.toMatchObject({
      code: 'ERR_MULTIFD_SNAPSHOT',
      message: expect.stringMatching(sentence),
    })
    expect(destination.connections).toBe(0)
  })

  it('its machine type says nothing of sync points', async () => {
    const contents = { ...contentsOf('q72-legacy-none'), channels: 0 }
    const configuration = Buffer.from(contents.configuration)
    configuration.write('pc-q35-abc', configuration.length - 'pc-q35-7.2'.length)
    const other = join(scratch, 'other')
    await storeSnapshot(other, { ...contents, configuration, machine: 'pc-q35-abc' })
    await using destination = await ReplayDestination.listen(legacy)
    await expect(sendSnapshot(other, destination.uri).result).rejects.toMatchObject({
      code: 'ERR_MULTIFD_UNSUPPORTED',
      message: expect.stringMatching(/pc-q35-abc does not say.*name the dialect.*qom-get/),
    })
    expect(destination.connections).toBe(0)
    const told = await sendSnapshot(other, destination.uri, { dialect: 'per-section' }).result
    expect(told[0]?.status).toBe('completed')
  })

  it('the manifest and the configuration name two machines', async () => {
    const manifest = await readManifest(directory)
    const path = join(scratch, 'other')
    await SnapshotDirectory.create(path)
    rmSync(path, { recursive: true })
    await storeSnapshot(path, { ...contentsOf('q72-legacy-none'), machine: 'pc-q35-8.1' })
    await expect(sendSnapshot(path, 'tcp:127.0.0.1:1').result).rejects.toThrow(
      /names machine pc-q35-8\.1, the configuration pc-q35-7\.2/,
    )
    expect(manifest.machine).toBe('pc-q35-7.2')
  })

  it('its device state cannot be paused', async () => {
    const contents = contentsOf('q72-legacy-none')
    const end = contents.sectionBytes ?? 0
    const path = join(scratch, 'other')
    const tail = contents.tail.slice(0, end + 1) // no vmdescription
    await storeSnapshot(path, { ...contents, tail, sectionBytes: null })
    const sending = sendSnapshot(path, 'tcp:127.0.0.1:1', { paused: true })
    await expect(sending.result).rejects.toMatchObject({
      code: 'ERR_MULTIFD_UNSUPPORTED',
      message: expect.stringMatching(/no vmdescription.*-S instead/),
    })
  })
})

/** What happens when an event of this kind comes for the n-th time. */
function when(
  kind: MainStreamEvent['kind'],
  act: (peer: ReplayDestination) => void = () => {},
  nth = 1,
): Partial<ReplayBehaviour> {
  let seen = 0
  return {
    at: (event, peer) => {
      if (event.kind !== kind) return 'go on'
      seen += 1
      if (seen < nth) return 'go on'
      act(peer)
      return 'silence'
    },
  }
}

const stages: [string, MainStreamEvent['kind'], RegExp, RegExp][] = [
  ['at once', 'configuration', /has not begun to read/, /-machine pc-q35-7\.2/],
  ['at the block list', 'ram-mem-size', /hangs before the first page.*dialect/, /-m 4M; blocks/],
  ['within the pages', 'ram-zero', /did not take all pages/, /multifd-compression none/],
  ['within the devices', 'device-tail', /has all of RAM.*may run there/, /"info status"/],
]

describe('a destination', () => {
  it.each(stages)('that falls silent %s ends in a time-out', async (_name, kind, sentence) => {
    const failure = await failureOf(when(kind), { peerTimeoutMs: 400 })
    expect(failure).toMatch(/^failed: ERR_MULTIFD_TIMEOUT .*silent for 400 ms/)
    expect(failure).toMatch(sentence)
  })

  it.each(stages)('that resets its connections %s', async (_name, kind, _silence, sentence) => {
    const failure = await failureOf(when(kind, (peer) => peer.reset()))
    expect(failure).toMatch(/^failed: ERR_MULTIFD_(PEER_CLOSED|CHANNEL) /)
    expect(failure).toMatch(sentence)
  })

  it.each(stages)('that ends its main channel %s', async (_name, kind, _silence, sentence) => {
    const failure = await failureOf(when(kind, (peer) => peer.main?.end()))
    expect(failure).toMatch(/^failed: ERR_MULTIFD_PEER_CLOSED QEMU closed the main channel; /)
    // A QEMU that ends in order runs nothing, even if it had everything.
    expect(failure).toMatch(kind === 'device-tail' ? /its stderr names the device/ : sentence)
    expect(failure).not.toContain('may run there')
  })

  it('that never accepts the channels it was sent', async () => {
    const failure = await failureOf({ channels: 3 }, { peerTimeoutMs: 400 })
    expect(failure).toMatch(/_TIMEOUT .*another number of channels than 2 .*multifd-channels 2/)
  })

  it('that begins before all channels are there', async () => {
    const joined: ReplayBehaviour['joined'] = (_count, peer) => peer.stopListening()
    const failure = await failureOf({ channels: 1, joined }, { multifdChannels: 3 })
    expect(failure).toMatch(/^failed: ERR_MULTIFD_.*channels.*multifd-channels 3/)
  })

  it('that says it failed', async () => {
    const shut = (peer: ReplayDestination) => peer.main?.write(encodeShut(1))
    const failure = await failureOf(when('device-tail', shut))
    expect(failure).toMatch(
      /_PEER_CLOSED QEMU reported that loading .* failed \(SHUT 1\); .*stderr/,
    )
    expect(failure).not.toContain('may run there')
  })

  it.each<[string, Uint8Array, string]>([
    ['is done too early', encodeShut(0), 'SHUT 0 came before everything was sent'],
    ['answers what nobody asked', encodePong(7), 'PONG 7 came, expected 2'],
    ['says something unknown', Buffer.from('00ff0000', 'hex'), '0x00ff'],
    ['asks for post-copy', Buffer.from('00040000', 'hex'), 'post-copy'],
  ])('that %s', async (_name, bytes, sentence) => {
    const failure = await failureOf(when('ram-mem-size', (peer) => peer.main?.write(bytes)))
    expect(failure).toMatch(/^failed: ERR_MULTIFD_(PROTOCOL|UNSUPPORTED) /)
    expect(failure).toContain(sentence)
  })

  it('that is not there', async () => {
    const gone = await ReplayDestination.listen(legacy)
    await gone[Symbol.asyncDispose]()
    const [outcome] = await sendSnapshot(directory, gone.uri).result
    expect(outcome).toMatchObject({ status: 'failed', error: { code: 'ERR_MULTIFD_CHANNEL' } })
    const [beyond] = await sendSnapshot(directory, 'tcp:192.0.2.1:1').result
    expect(beyond).toMatchObject({ error: { code: 'ERR_MULTIFD_UNSUPPORTED' } })
  })

  it('is given up when the caller wants so, at any time', async () => {
    const early = AbortSignal.abort(new Error('never mind'))
    const sending = sendSnapshot(directory, 'tcp:127.0.0.1:1', { signal: early })
    await expect(sending.result).rejects.toMatchObject({ code: 'ERR_MULTIFD_ABORTED' })
    for (const channels of [0, 2]) {
      for (const kind of ['configuration', 'ram-mem-size', 'ram-zero', 'device-tail'] as const) {
        const abort = new AbortController()
        const behaviour = { ...when(kind, () => abort.abort()), channels }
        const options = { signal: abort.signal, multifdChannels: channels }
        const failure = await failureOf(behaviour, options)
        expect(failure).toMatch(/^cancelled: ERR_MULTIFD_ABORTED /)
        const sent = /everything was sent, so the guest may run there/.test(failure)
        expect(sent, kind).toBe(kind === 'device-tail')
      }
    }
  })
})

describe('a compression that this build does not have', () => {
  const missing = native()
    .compressionMethods()
    .filter(({ reason }) => reason !== '')

  it.skipIf(missing.length === 0)(
    'is refused before anybody is connected (skip: it has all)',
    async () => {
      await using destination = await ReplayDestination.listen(legacy)
      for (const { name, reason } of missing) {
        const sending = sendSnapshot(directory, destination.uri, { compression: name })
        await expect(sending.result).rejects.toThrow(reason)
      }
      expect(destination.connections).toBe(0)
    },
  )
})

describe('options that make no sense', () => {
  it.each<[object, string]>([
    [{ channels: 2 }, 'no option "channels"'],
    [{ multifdChannels: 256 }, 'multifdChannels must be a whole number from 0 to 255'],
    [{ paused: 1 }, 'paused must be true or false'],
    [{ dialect: 'modern' }, 'dialect must be one of per-section, per-round'],
    [{ uuid: '1' }, 'uuid: '],
    [{ compression: 'lz4' }, 'compression must be one of none, zlib, zstd'],
    [{ compressionLevel: 1 }, "compressionLevel is for compression 'zlib' or 'zstd'"],
    [{ compression: 'zlib', compressionLevel: 10 }, 'compressionLevel must be a whole number'],
    [{ compression: 'zstd', zeroCopy: 'on' }, "zeroCopy 'on' sends pages as they are"],
    [{ signal: 1 }, 'signal must be an AbortSignal'],
  ])('%j', (options, sentence) => {
    expect(() => sendSnapshot(directory, 'tcp:127.0.0.1:1', options)).toThrow(sentence)
  })

  it('and destinations that are none', () => {
    expect(() => sendSnapshot(directory, [])).toThrow('needs a URI or an array of them')
    expect(() => sendSnapshot(directory, ['tcp:127.0.0.1:1', 'http://x'])).toThrow('migration URI')
    expect(() => sendSnapshot(7 as unknown as string, 'unix:x')).toThrow('must be a string')
  })
})
