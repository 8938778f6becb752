// The plain C++ loop itself: it builds, moves every byte, and says so.
import { expect, test } from 'vitest'
import { Child } from '../../bench/child.ts'
import { buildCeiling, runCeiling, runMemcpy } from '../../bench/native-program.ts'

const MIB = 2 ** 20
const signal = AbortSignal.timeout(60_000)

test('one transfer reports its time and the CPU time of both processes', async () => {
  const program = await buildCeiling()
  // An odd share per channel, and sends that do not divide it.
  const options = {
    memoryBytes: 7 * MIB,
    channels: 3,
    sendSizeBytes: 100_000,
    socketBufferBytes: 0,
    congestionControl: 'reno',
    hugePages: false,
  }
  const result = await runCeiling(program, options, { signal })
  expect(result.seconds).toBeGreaterThan(0)
  expect(result.cpuSeconds).toBeGreaterThan(0)
  expect(result.sourceHugePageBytes).toBe(0)
})

test('the price of one copy is bytes per second', async () => {
  const program = await buildCeiling()
  const found = await runMemcpy(program, { memoryBytes: 16 * MIB, hugePages: false }, { signal })
  expect(found).toBeGreaterThan(0)
})

test('a child that fails says why, in its own words', async () => {
  const program = await buildCeiling()
  const args = ['receive', '--memory', '4097']
  await using child = await Child.start('the receiver', program, args, { signal })
  await expect(child.expect('ready', { signal })).rejects.toThrow(
    /the receiver ended \(1\).*\n--memory is 4097, expected a multiple of 4096/,
  )
})

test('an abort ends a waiting child', async () => {
  const program = await buildCeiling()
  const stop = new AbortController()
  const args = ['receive', '--memory', '4096', '--channels', '1', '--send-size', '4096']
  const child = await Child.start('the receiver', program, args, { signal: stop.signal })
  await child.expect('ready', { signal: stop.signal })
  const waiting = child.expect('done', { signal: stop.signal }) // nobody will ever connect
  stop.abort(new Error('ended by the test'))
  await expect(waiting).rejects.toThrow('ended by the test')
  await child[Symbol.asyncDispose]()
})
