// Device state over channels, beside RAM compressed or not: every byte arrives in order,
// its memory is held until it was sent, and whoever does not expect it says so by the device's
// name.

import { connect } from 'node:net'
import { beforeAll, describe, expect, it } from 'vitest'
import type { DeviceStatePart } from '../../src/channel/send-channel.ts'
import { concatBytes } from '../../src/wire/bytes.ts'
import { encodeDevicePacketHeader } from '../../src/wire/device-packet.ts'
import { decodeDevicePiece, encodeDevicePiece } from '../../src/wire/device-piece.ts'
import { encodeInitialPacket } from '../../src/wire/packet.ts'
import { expectSamePages, fillPages, randomNumbers, testSeed } from '../support/pages.ts'
import { expectNothingLeft, held } from '../support/resources.ts'
import { collected, compressionsHere, Memory, type Method, Receiver, Sender } from './channels.ts'

const PAGES = 512
const HEADER = 276
const seed = testSeed()
const none = new Uint8Array(0)
const pair = { idstr: 'dev', instanceId: 0 }

beforeAll(() => console.log(`seed ${seed} (repeat with MULTIFD_TEST_SEED=${seed})`))

function noise(size: number, from: number): Uint8Array {
  const bytes = new Uint8Array(size)
  const random = randomNumbers(from)
  for (let at = 0; at < size; at += 1 + (size >> 12)) bytes[at] = random() * 256
  return bytes
}

/** Submits when there is room for it. */
async function submit(sender: Sender, part: DeviceStatePart): Promise<void> {
  while (!sender.channel.submitDeviceState(part)) await sender.stateSent.promise
}

/** Two devices in pieces, at once, while rounds of RAM go over the same channel. */
async function migrate(method: Method): Promise<void> {
  using source = new Memory(PAGES * 4096)
  using destination = new Memory(PAGES * 4096)
  await using receiver = new Receiver(destination.native, method.compression, { devices: true })
  await using sender = new Sender(source, receiver.port, method)
  fillPages(source.bytes, seed)
  await sender.start()
  const sizes = [1, 12, 4096, 300_000, (1 << 20) + 1, 7]
  const device = async (instanceId: number): Promise<void> => {
    for (const [index, size] of sizes.entries()) {
      const last = index === sizes.length - 1
      const piece = encodeDevicePiece({ index, last, data: noise(size, seed + index) })
      await submit(sender, { idstr: 'vga', instanceId, ...piece })
    }
  }
  await Promise.all([device(0), device(1), sender.round()])
  await submit(sender, { ...pair, prefix: none, data: Uint8Array.of(42) }) // behind the last SYNC
  const { counters } = sender.channel
  await sender.channel.close()
  await receiver.ended
  expect(receiver.error).toBeUndefined()
  expectSamePages(destination.bytes, source.bytes)
  const states = receiver.states ?? []
  expect(states.length).toBe(2 * sizes.length + 1)
  expect(states.at(-1)).toMatchObject({ idstr: 'dev', instanceId: 0, bytes: Uint8Array.of(42) })
  for (const instanceId of [0, 1]) {
    const pieces = states.filter(
      (state) => state.idstr === 'vga' && state.instanceId === instanceId,
    )
    for (const [index, { bytes }] of pieces.entries()) {
      const piece = decodeDevicePiece(bytes)
      if (!piece.ok) throw piece.error
      expect(piece.value.index).toBe(index)
      expect(piece.value.last).toBe(index === sizes.length - 1)
      expect(Buffer.compare(piece.value.data, noise(sizes[index] ?? 0, seed + index))).toBe(0)
    }
  }
  const received = receiver.channels[0]?.counters
  const wireBytes = states.reduce((sum, { bytes }) => sum + HEADER + bytes.length, 0)
  expect(received?.deviceStateBytes).toBe(wireBytes)
  expect(counters.deviceStateBytes).toBeLessThanOrEqual(wireBytes)
  expect(received?.receivedBytes).toBe(sender.channel.sentBytes)
  expect(sender.statesSent.reduce((sum, bytes) => sum + bytes, 0)).toBe(wireBytes)
}

describe('device state over a channel', () => {
  for (const engine of ['sendmsg', 'io-uring'] as const) {
    for (const compression of ['none', ...compressionsHere()] as const) {
      it(`travels beside RAM: ${engine}, compression ${compression}`, async () => {
        const before = held()
        await migrate({ engine, compression })
        await collected()
        expectNothingLeft(before)
      })
    }
  }

  it('of 16 MiB is sent from memory that nobody else refers to any more', async () => {
    using source = new Memory(4096)
    using destination = new Memory(4096)
    await using receiver = new Receiver(destination.native, 'none', { devices: true })
    await using sender = new Sender(source, receiver.port, { compression: 'none' })
    await sender.start()
    const sent = sender.stateSent.promise
    const size = 16 * 1024 * 1024
    const prefix = new Uint8Array(12).fill(9)
    const data = new WeakRef(noise(size, seed))
    sender.channel.submitDeviceState({ ...pair, prefix, data: data.deref() ?? none })
    prefix.fill(0) // it was copied
    await collected()
    await sent
    await collected()
    expect(data.deref()).toBeUndefined()
    expect(sender.statesSent).toEqual([HEADER + 12 + size])
    await sender.channel.close()
    await receiver.ended
    const [state] = receiver.states ?? []
    const expected = concatBytes(new Uint8Array(12).fill(9), noise(size, seed))
    expect(Buffer.compare(state?.bytes ?? none, expected)).toBe(0)
  })

  it('goes a few at a time, and a packet has its bounds', async () => {
    using source = new Memory(4096)
    using destination = new Memory(4096)
    await using receiver = new Receiver(destination.native, 'none', { devices: true })
    await using sender = new Sender(source, receiver.port, { compression: 'none' })
    await sender.start()
    const part = { ...pair, prefix: none, data: Uint8Array.of(1) }
    let taken = 0
    while (sender.channel.submitDeviceState(part)) taken += 1
    expect(taken).toBe(4)
    await sender.stateSent.promise
    expect(sender.channel.submitDeviceState(part)).toBe(true)
    const wrong: Partial<DeviceStatePart>[] = [
      { idstr: '' },
      { idstr: 'd'.repeat(256) },
      { instanceId: -1 },
      { prefix: new Uint8Array(33) },
      { data: none },
      { data: new Uint8Array(16 * 1024 * 1024 + 13) },
    ]
    for (const change of wrong) {
      expect(() => sender.channel.submitDeviceState({ ...part, ...change })).toThrow(RangeError)
    }
    await sender.channel.destroy()
    expect(sender.channel.submitDeviceState(part)).toBe(false)
  })

  it('is refused by the name of the device where nothing takes it', async () => {
    using destination = new Memory(4096)
    await using receiver = new Receiver(destination.native, 'none')
    const socket = connect(receiver.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.write(encodeInitialPacket({ uuid: new Uint8Array(16), channelId: 0 }))
    socket.write(encodeDevicePacketHeader({ idstr: 'vga', instanceId: 3, nextPacketSize: 1 }))
    socket.write(Uint8Array.of(0))
    await receiver.ended
    expect(receiver.error).toMatchObject({
      code: 'ERR_MULTIFD_UNSUPPORTED',
      message: expect.stringMatching(/device "vga" \(instance 3\) .* off at the source/),
    })
    socket.destroy()
  })
})
