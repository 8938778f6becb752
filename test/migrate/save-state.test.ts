// Devices as a VMM hands them in: what is refused at once, and what a call into one may do.

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { MultifdError } from '../../src/kit/errors.ts'
import type { NamedHandler } from '../../src/migrate/named-handler.ts'
import { checkDevices, type SaveStateHandler } from '../../src/migrate/save-state.ts'
import type { Device } from '../../src/migrate/vmm.ts'

const device: Device = { idstr: 'clock', save: () => new Uint8Array(3), load: () => {} }
const handler: SaveStateHandler = {
  idstr: 'vga',
  instanceId: 7,
  pendingEstimate: () => 5,
  iterate: () => new Uint8Array(2),
  complete: () => new Uint8Array(1),
  load: () => {},
}

const named = (parts: Partial<SaveStateHandler>): NamedHandler => {
  const [made] = checkDevices([{ ...handler, ...parts }], 50)
  if (made === undefined) throw new Error('one device gives one handler')
  return made
}

async function failure(work: Promise<unknown>): Promise<MultifdError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(MultifdError)
  return error as MultifdError
}

async function all(pieces: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const list: Uint8Array[] = []
  for await (const piece of pieces) list.push(piece)
  return list
}

describe('devices', () => {
  it('of both kinds become handlers with their defaults', async () => {
    const loaded: unknown[] = []
    const load = (...args: unknown[]) => void loaded.push(args)
    const [simple, full] = checkDevices([{ ...device, load }, handler])
    expect(simple).toMatchObject({
      ...{ idstr: 'clock', instanceId: 0, versionId: 1, loadTimeMs: 0 },
      ...{ iterable: false, inPieces: false, sectioned: false },
      name: 'device "clock" (instance 0)',
    })
    expect(full).toMatchObject({ instanceId: 7, iterable: true, inPieces: false, sectioned: true })
    expect(await simple?.complete()).toEqual(new Uint8Array(3))
    expect([simple?.pendingEstimate(), await simple?.pendingExact()]).toEqual([0, undefined])
    expect([await simple?.setup(), await simple?.switchoverAck()]).toEqual([
      new Uint8Array(0),
      undefined,
    ])
    await simple?.load(Uint8Array.of(9), 'complete', 3)
    expect(loaded).toEqual([[Uint8Array.of(9), 3]])
    expect([full?.pendingEstimate(), await full?.pendingExact()]).toEqual([5, 5])
  })

  it('are called as methods of what the VMM gave', async () => {
    class Disk implements SaveStateHandler {
      idstr = 'disk'
      #left = 3
      pendingEstimate() {
        return this.#left
      }
      iterate(budgetBytes: number) {
        this.#left -= 1
        return new Uint8Array(Math.min(1, budgetBytes))
      }
      complete = () => new Uint8Array(this.#left)
      load() {}
    }
    const [disk] = checkDevices([new Disk()])
    await disk?.iterate(10)
    expect(disk?.pendingEstimate()).toBe(2)
    expect(await disk?.complete()).toHaveLength(2)
  })

  const bad: [string, unknown, typeof TypeError | typeof RangeError, RegExp][] = [
    ['named as RAM', { ...device, idstr: 'ram' }, TypeError, /name of the guest's memory/],
    ['of both kinds', { ...device, ...handler }, TypeError, /both save and complete/],
    ['half a handler', { ...device, iterate: () => {} }, TypeError, /needs complete/],
    ['that cannot complete', { ...handler, complete: 1 }, TypeError, /complete of device "vga"/],
    ['that cannot load', { ...handler, load: null }, TypeError, /load of device "vga"/],
    ['whose setup is no function', { ...handler, setup: 1 }, TypeError, /setup of device "vga"/],
    [
      'that never says what is pending',
      { ...handler, pendingEstimate: undefined },
      TypeError,
      /iterate of device "vga" needs pendingEstimate/,
    ],
    ['that loads backwards', { ...handler, loadTimeMs: -1 }, RangeError, /loadTimeMs .* got -1/],
  ]
  it.each(bad)('%s are refused', (_title, one, kind, sentence) => {
    expect(() => checkDevices([one as Device])).toThrow(kind)
    expect(() => checkDevices([one as Device])).toThrow(sentence)
  })

  it('may be named ram in another instance', () => {
    expect(checkDevices([{ ...device, idstr: 'ram', instanceId: 1 }])).toHaveLength(1)
  })
})

describe('a call into a device', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  const thrown = new Error('on fire')
  const burn = (): never => {
    throw thrown
  }
  const calls: [string, Partial<SaveStateHandler>, (one: NamedHandler) => Promise<unknown>][] = [
    ['setup', { setup: burn }, (one) => one.setup()],
    ['pendingEstimate', { pendingEstimate: burn }, async (one) => one.pendingEstimate()],
    ['pendingExact', { pendingExact: async () => burn() }, (one) => one.pendingExact()],
    ['iterate', { iterate: burn }, (one) => one.iterate(1)],
    ['complete', { complete: async () => burn() }, (one) => one.complete()],
    ['completePieces', { completePieces: burn }, (one) => all(one.pieces())],
    ['load', { load: burn }, (one) => one.load(new Uint8Array(0), 'setup', 1)],
    ['switchoverAck', { switchoverAck: burn }, (one) => one.switchoverAck()],
  ]
  it.each(calls)('%s that throws is named, with the cause', async (call, parts, run) => {
    const error = await failure(run(named(parts)))
    expect(error.code).toBe('ERR_MULTIFD_VMM')
    expect(error.message).toBe(`${call} of device "vga" (instance 7) failed: on fire`)
    expect(error.cause).toBe(thrown)
  })

  it('save is named as the VMM calls it', async () => {
    const [simple] = checkDevices([{ ...device, save: burn }])
    const error = await failure(simple?.complete() ?? Promise.resolve())
    expect(error.message).toBe('save of device "clock" (instance 0) failed: on fire')
  })

  const never = () => new Promise<never>(() => {})
  const hanging: [string, Partial<SaveStateHandler>, (one: NamedHandler) => Promise<unknown>][] = [
    ['setup', { setup: never }, (one) => one.setup()],
    ['pendingExact', { pendingExact: never }, (one) => one.pendingExact()],
    ['iterate', { iterate: never }, (one) => one.iterate(1)],
    ['complete', { complete: never }, (one) => one.complete()],
    ['completePieces', { completePieces: hangingPieces }, (one) => all(one.pieces())],
    ['load', { load: never }, (one) => one.load(new Uint8Array(0), 'piece', 1)],
  ]
  async function* hangingPieces(): AsyncGenerator<Uint8Array> {
    yield new Uint8Array(1)
    await never()
  }
  it.each(hanging)('%s that hangs ends at the time limit', async (call, parts, run) => {
    const outcome = failure(run(named(parts)))
    await vi.advanceTimersByTimeAsync(49)
    expect(vi.getTimerCount()).toBe(1)
    await vi.advanceTimersByTimeAsync(1)
    const error = await outcome
    expect(error.code).toBe('ERR_MULTIFD_TIMEOUT')
    expect(error.message).toMatch(
      new RegExp(`^${call} of device "vga" .* longer than 50 ms \\(deviceTimeoutMs\\)`),
    )
    expect(vi.getTimerCount()).toBe(0)
  })

  it('that ends in time leaves no timer, and one too late is heard no more', async () => {
    await named({}).iterate(2)
    expect(vi.getTimerCount()).toBe(0)
    let reject: (error: Error) => void = () => {}
    const complete = () => new Promise<never>((_resolve, onReject) => (reject = onReject))
    const outcome = failure(named({ complete }).complete())
    await vi.advanceTimersByTimeAsync(50)
    expect((await outcome).code).toBe('ERR_MULTIFD_TIMEOUT')
    reject(new Error('late'))
    await vi.advanceTimersByTimeAsync(1)
  })

  it('switchoverAck may take any time', async () => {
    let resolve: () => void = () => {}
    const acknowledged = named({
      switchoverAck: () => new Promise<void>((onValue) => (resolve = onValue)),
    }).switchoverAck()
    expect(vi.getTimerCount()).toBe(0)
    resolve()
    await acknowledged
  })

  const wrong: [string, Partial<SaveStateHandler>, (one: NamedHandler) => unknown, RegExp][] = [
    ['text', { setup: as('x') }, (one) => one.setup(), /setup .* gave "x", expected a Uint8Array/],
    ['nothing', { complete: as(undefined) }, (one) => one.complete(), /complete .* gave undefined/],
    ['more than its budget', {}, (one) => one.iterate(1), /iterate .* gave 2 bytes, .*at most 1 b/],
    [
      'more than 256 MiB',
      { complete: as(sized(256 * 2 ** 20 + 1)) },
      (one) => one.complete(),
      /complete .* gave 268435457 bytes/,
    ],
    [
      'an end of pieces above 1 MiB',
      { completePieces: () => [], complete: as(sized(2 ** 20 + 1)) },
      (one) => one.complete(),
      /at most 1048576 bytes/,
    ],
    [
      'a piece above 1 MiB',
      { completePieces: () => [sized(2 ** 20 + 1)] },
      (one) => all(one.pieces()),
      /completePieces .* gave 1048577 bytes, expected .* at most 1048576/,
    ],
    [
      'bytes for pieces',
      { completePieces: as(new Uint8Array(2)) },
      (one) => all(one.pieces()),
      /completePieces .* gave 0, expected a Uint8Array/,
    ],
    [
      'no pieces at all',
      { completePieces: as(5) },
      (one) => all(one.pieces()),
      /completePieces .* got 5, expected an iterable/,
    ],
    ...[-1, Number.NaN, Number.POSITIVE_INFINITY, '5', Promise.resolve(5)].map(
      (pending): [string, Partial<SaveStateHandler>, (one: NamedHandler) => unknown, RegExp] => [
        `${String(pending)} as what is pending`,
        { pendingEstimate: as(pending) },
        async (one) => one.pendingEstimate(),
        /pendingEstimate .* expected a number of bytes, 0 or more/,
      ],
    ),
    [
      'no exact number',
      { pendingExact: as(undefined) },
      (one) => one.pendingExact(),
      /pendingExact .* gave undefined/,
    ],
  ]
  it.each(wrong)('that gives %s is refused', async (_title, parts, run, sentence) => {
    const error = await failure(Promise.resolve(run(named(parts))))
    expect(error.code).toBe('ERR_MULTIFD_VMM')
    expect(error.message).toMatch(/of device "vga" \(instance 7\)/)
    expect(error.message).toMatch(sentence)
  })

  it('for pieces takes lists and generators, and tells one it breaks off', async () => {
    expect(await all(named({ completePieces: () => [Uint8Array.of(1)] }).pieces())).toEqual([
      Uint8Array.of(1),
    ])
    let cleaned = false
    async function* endless(): AsyncGenerator<Uint8Array> {
      try {
        for (;;) yield Uint8Array.of(2)
      } finally {
        cleaned = true
      }
    }
    for await (const piece of named({ completePieces: endless }).pieces()) {
      expect(piece).toEqual(Uint8Array.of(2))
      break
    }
    await Promise.resolve()
    expect(cleaned).toBe(true)
  })
})

/** A call that gives what its type forbids. */
function as(value: unknown): () => never {
  return () => value as never
}

function sized(bytes: number): Uint8Array {
  return new Uint8Array(bytes)
}
