// The example's virtual machine: it runs, stops when told, survives a move of its memory and
// devices to another machine, and its guest finds what a faulty move would leave behind. All time
// limits are the guest's own counters.
import { createHash } from 'node:crypto'
import { afterEach, describe, expect, test } from 'vitest'
import {
  CONTROL_PAGE_BYTES,
  GUEST_PAGE_BYTES,
  WORKING_SET_START_BYTES,
} from '../../examples/v86/control-page.ts'
import { V86Machine, type V86MachineOptions } from '../../examples/v86/machine.ts'

const MIB = 1024 * 1024
const machines: V86Machine[] = []

afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.destroy()))
})

async function create(options: V86MachineOptions = {}): Promise<V86Machine> {
  const machine = await V86Machine.create({ workingSetBytes: 4 * MIB, ...options })
  machines.push(machine)
  return machine
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn()
}

async function generations(machine: V86Machine, count: number): Promise<void> {
  const wanted = machine.readStats().generation + count
  await until(() => machine.readStats().generation >= wanted)
}

function ram(machine: V86Machine): Uint8Array {
  const { wasmMemory, offsetBytes, sizeBytes } = machine.guestMemory
  return new Uint8Array(wasmMemory.buffer, offsetBytes, sizeBytes)
}

function page(machine: V86Machine, index: number): Uint8Array {
  const start = WORKING_SET_START_BYTES + index * GUEST_PAGE_BYTES
  return ram(machine).subarray(start, start + GUEST_PAGE_BYTES)
}

const ramHash = (machine: V86Machine) => createHash('sha1').update(ram(machine)).digest('hex')

/** Moves a stopped or running machine's guest into a new machine and lets it go on there. */
async function move(source: V86Machine, options: V86MachineOptions = {}): Promise<V86Machine> {
  await source.stop()
  const destination = await create({ incoming: true, ...options })
  ram(destination).set(ram(source))
  destination.loadDevices(source.saveDevices())
  expect(await destination.resume()).toBe(destination.firstInstructionAtMs)
  return destination
}

describe('running', () => {
  test('the guest boots, rewrites and checks its working set, and reports on its serial port', async () => {
    const machine = await create()
    machine.start()
    await until(() => machine.readStats().generation >= 5)
    const stats = machine.readStats()
    expect(stats).toMatchObject({ errors: 0, lastBadPage: undefined, workingSetPages: 1024 })
    expect(stats.pagesWritten).toBeGreaterThanOrEqual(4 * 1024)
    expect(machine.serialOutput).toBe('multifd firmware: working set 1024 pages\n')
  })

  test('the guest touches nothing but its control page, its stack and its working set', async () => {
    const machine = await create()
    const atBoot = ram(machine).slice()
    machine.start()
    await until(() => machine.readStats().generation >= 3)
    await machine.stop()
    const now = ram(machine).slice()
    for (const memory of [atBoot, now]) {
      memory.fill(0, CONTROL_PAGE_BYTES, CONTROL_PAGE_BYTES + 2 * GUEST_PAGE_BYTES)
      memory.fill(0, WORKING_SET_START_BYTES, WORKING_SET_START_BYTES + 4 * MIB)
    }
    expect(Buffer.compare(now, atBoot)).toBe(0)
  })

  test('after stop no guest memory changes, and resume goes on from there', async () => {
    const machine = await create()
    machine.start()
    await until(() => machine.readStats().generation >= 2)
    await machine.stop()
    const before = { hash: ramHash(machine), lastAt: machine.lastInstructionAtMs }
    for (let turns = 0; turns < 50; turns++) await turn()
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect({ hash: ramHash(machine), lastAt: machine.lastInstructionAtMs }).toEqual(before)
    const firstAt = await machine.resume()
    expect(firstAt).toBeGreaterThan(before.lastAt ?? Number.POSITIVE_INFINITY)
    await generations(machine, 3)
    expect(machine.readStats().errors).toBe(0)
  })

  test('a stop that nobody waited for does not hang when the guest is resumed at once', async () => {
    const machine = await create()
    machine.start()
    await until(() => machine.readStats().generation >= 2)
    const stopped = machine.stop()
    const resumed = machine.resume()
    await stopped
    expect(await resumed).toBeDefined()
    await generations(machine, 2)
    expect(machine.readStats().errors).toBe(0)
  })

  test('a guest stopped before it could run again reports no first instruction', async () => {
    const machine = await create({ pagesPerSecond: 1 })
    machine.start()
    await until(() => machine.readStats().generation >= 2)
    await machine.stop()
    const first = machine.resume()
    await machine.stop()
    expect(await first).toBeUndefined()
    expect(machine.firstInstructionAtMs).toBeUndefined()
  })
})

describe('moving to another machine', () => {
  test.each([0, 50_000])(
    'a guest at %d pages/s goes on without an error, six times in a row',
    async (rate) => {
      let machine = await create({ pagesPerSecond: rate })
      machine.start()
      await until(() => machine.readStats().generation >= 2)
      for (let moves = 1; moves <= 6; moves++) {
        const before = machine.readStats()
        const previous = machine
        machine = await move(previous)
        await generations(machine, 4)
        await until(() => machine.readStats().heartbeat > before.heartbeat)
        const after = machine.readStats()
        expect(after, `after move ${moves}`).toMatchObject({ errors: 0, pagesPerSecond: rate })
        expect(after.pagesWritten).toBeGreaterThan(before.pagesWritten)
        expect(machine.serialOutput).toBe('')
        await previous.destroy()
      }
    },
  )

  test('a machine that waits for its devices refuses to run, and refuses what is not device state', async () => {
    const machine = await create({ incoming: true })
    expect(() => machine.start()).toThrow(/start\(\).*awaiting-devices/)
    expect(() => machine.resume()).toThrow(/awaiting-devices/)
    expect(() => machine.loadDevices(new Uint8Array(15))).toThrow(/15 bytes/)
    expect(() => machine.loadDevices(new Uint8Array(4096))).toThrow(/magic 0x0/)
    expect(machine.readStats()).toMatchObject({ generation: 0, lastBadPage: undefined })
  })

  test('guest memory is not written and devices are not saved in the wrong state', async () => {
    const machine = await create()
    expect(() => machine.saveDevices()).toThrow(/saveDevices/)
    machine.start()
    expect(() => machine.saveDevices()).toThrow(/running/)
    await machine.stop()
    expect(() => machine.setPagesPerSecond(1)).toThrow(/stopped/)
    const before = ramHash(machine)
    machine.throttle(50)
    expect(ramHash(machine)).toBe(before)
  })
})

describe('what a faulty move leaves behind is found', () => {
  const index = 517
  const faults: [string, (now: Uint8Array, old: Uint8Array) => void][] = [
    ['a stale page', (now, old) => now.set(old)],
    ['a page whose second half is stale', (now, old) => now.set(old.subarray(2048), 2048)],
    ['a lost page', (now) => now.fill(0)],
  ]
  test.each(faults)('%s counts as one error and is named', async (_name, spoil) => {
    const machine = await create()
    machine.start()
    await until(() => machine.readStats().generation >= 2)
    await machine.stop()
    const old = page(machine, index).slice()
    void machine.resume()
    await generations(machine, 3)
    await machine.stop()
    spoil(page(machine, index), old)
    void machine.resume()
    await generations(machine, 3)
    expect(machine.readStats()).toMatchObject({ errors: 1, lastBadPage: index })
    expect(machine.serialOutput).toMatch(
      /\nmultifd firmware: error: page 517 is not as written, found in generation \d+\n$/,
    )
  })
})

// The host clock of these tests moves by a fixed step each time it is read, so only the guest's own
// sums are tested. The rate is low enough that a step earns less than a page: the guest sleeps
// between its pages, as it would.
describe('pacing', () => {
  const rate = 400
  const spanMs = 500
  const slackMs = 10
  const slackPages = (rate * slackMs) / 1000

  async function paced(): Promise<{ machine: V86Machine; time: { ms: number } }> {
    const time = { ms: 0 }
    const hostNow = () => {
      time.ms += 0.25
      return time.ms
    }
    const machine = await create({ pagesPerSecond: rate, hostNow })
    machine.start()
    await until(() => machine.readStats().heartbeat > 0 && machine.readStats().pagesGranted > 0)
    return { machine, time }
  }

  async function grantedPerSecond(machine: V86Machine, time: { ms: number }): Promise<number> {
    const start = { ms: time.ms, pages: machine.readStats().pagesGranted }
    await until(() => time.ms >= start.ms + spanMs)
    const end = { ms: time.ms, pages: machine.readStats().pagesGranted }
    return ((end.pages - start.pages) / (end.ms - start.ms)) * 1000
  }

  test('the guest grants itself the wanted rate and writes what it was granted', async () => {
    const { machine, time } = await paced()
    const granted = await grantedPerSecond(machine, time)
    expect(Math.abs(granted - rate)).toBeLessThan((rate * slackMs) / spanMs)
    const stats = machine.readStats()
    const pacedWritten = stats.pagesWritten - stats.workingSetPages
    expect(pacedWritten).toBeLessThanOrEqual(stats.pagesGranted)
    expect(pacedWritten).toBeGreaterThanOrEqual(stats.pagesGranted - slackPages)
    expect(stats.errors).toBe(0)
  })

  test('a throttled guest is granted less, and the destination grants it the full rate again', async () => {
    const { machine, time } = await paced()
    machine.throttle(75)
    const throttled = await grantedPerSecond(machine, time)
    expect(Math.abs(throttled - rate / 4)).toBeLessThan((rate * slackMs) / spanMs)
    const moved = await move(machine, {
      hostNow: () => {
        time.ms += 0.25
        return time.ms
      },
    })
    const granted = await grantedPerSecond(moved, time)
    expect(Math.abs(granted - rate)).toBeLessThan((rate * slackMs) / spanMs)
  })

  test('a host that is late by ten seconds gives the guest at most 50 ms to make up', async () => {
    const { machine, time } = await paced()
    const before = machine.readStats()
    time.ms += 10_000
    await until(() => machine.readStats().heartbeat > before.heartbeat + 5)
    const gained = machine.readStats().pagesGranted - before.pagesGranted
    expect(gained).toBeLessThan((rate * 50) / 1000 + 3 * slackPages)
  })

  test('time in which the guest is stopped does not pass for it', async () => {
    const { machine, time } = await paced()
    await machine.stop()
    const before = machine.readStats()
    time.ms += 10_000
    void machine.resume()
    await until(() => machine.readStats().heartbeat > before.heartbeat + 2)
    const gained = machine.readStats().pagesGranted - before.pagesGranted
    expect(gained).toBeLessThan(3 * slackPages)
  })
})

test('bad options are refused by name and value', async () => {
  await expect(V86Machine.create({ memorySizeBytes: 5 })).rejects.toThrow(/memorySizeBytes is 5/)
  await expect(create({ workingSetBytes: 64 * MIB })).rejects.toThrow(/workingSetBytes/)
  await expect(create({ workingSetBytes: 100 })).rejects.toThrow(/workingSetBytes is 100/)
  await expect(create({ pagesPerSecond: -1 })).rejects.toThrow(/pagesPerSecond is -1/)
  const machine = await create()
  expect(() => machine.throttle(100)).toThrow(/percent is 100/)
})
