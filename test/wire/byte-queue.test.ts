import { expect, test } from 'vitest'
import { ByteQueue } from '../../src/wire/byte-queue.ts'

const MIB = 2 ** 20

test.each([0, 1, 4096, 300 * 1024])(
  'what was held stays when %i bytes of more are expected',
  (length) => {
    const queue = new ByteQueue()
    queue.append(Uint8Array.from({ length: 5000 }, (_, i) => i))
    queue.skip(4990)
    queue.expect(10 + length)
    for (let sent = 0; sent < length; sent += 1000) {
      queue.append(new Uint8Array(Math.min(1000, length - sent)).fill(7))
    }
    expect(queue.available).toBe(10 + length)
    expect([...queue.take(10)]).toEqual(Array.from({ length: 10 }, (_, i) => (4990 + i) % 256))
    expect(queue.take(length).every((byte) => byte === 7)).toBe(true)
    expect(queue.position).toBe(5000 + length)
  },
)

test('a peer that announces more than it sends gets 16 MiB on its word', () => {
  const before = process.memoryUsage().arrayBuffers
  const queue = new ByteQueue()
  queue.append(new Uint8Array(1))
  queue.expect(256 * MIB)
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(17 * MIB)
  expect(queue.available).toBe(1)
})
