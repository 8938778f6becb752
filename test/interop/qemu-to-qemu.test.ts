// The fixtures of the interop tests prove themselves: QEMU to QEMU, with nothing of ours between.
// What a QEMU does here is what ours at one end is measured against.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Child } from '../../bench/child.ts'
import { QemuGuest } from '../../bench/qemu/guest.ts'
import { GUEST_MEMORY_BYTES } from '../../bench/qemu/launch.ts'
import { differingPages, knownRam, writeKnownRam } from '../../bench/qemu/ram.ts'
import { ScratchFolder } from '../../bench/qemu/scratch-folder.ts'
import { qemuToQemu, sameRam } from '../../bench/qemu/transfer.ts'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'
import { expectGuestStays } from '../support/qemu/guest-stays.ts'
import { qemuOrSkip } from '../support/qemu/qemu-or-skip.ts'

const MEMORY_BYTES = GUEST_MEMORY_BYTES
const incoming = { name: 'destination', incoming: true }

let folder: ScratchFolder

beforeEach(async (context) => {
  await qemuOrSkip(context)
  folder = new ScratchFolder()
  return () => folder.remove()
})

afterEach(() => {
  expect(ownFolders(), 'folders of QEMUs that were not removed').toEqual([])
})

/** Folders that this process left. */
function ownFolders(): string[] {
  return readdirSync(tmpdir()).filter((name) => {
    const ours = name.startsWith(`multifd-qemu-${process.pid}-`)
    return ours && join(tmpdir(), name) !== folder.path
  })
}

function isRunning(pid: number): boolean {
  try {
    // A zombie is no QEMU any more, whoever has to collect it.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

describe('a paused guest', () => {
  it('has the RAM it was given, by file and by pmemsave, and the destination gets it', async () => {
    const file = folder.file('ram')
    writeKnownRam(file, MEMORY_BYTES, 5)
    await using source = await QemuGuest.start({ name: 'source', paused: true, ram: { file } })
    await using destination = await QemuGuest.start(incoming)
    const known = knownRam(MEMORY_BYTES, 5)
    const saved = await source.readGuest(0, MEMORY_BYTES)
    expect(differingPages(saved, known)).toEqual([])

    await source.enableMultifd({ channels: 2 })
    await destination.enableMultifd({ channels: 2 })
    await source.migrate(await destination.incoming())
    const report = await source.waitFor('completed')
    await destination.waitFor('completed')
    // Three of four pages hold something; not all is counted as multifd bytes where it is zero.
    expect(report.ram?.['multifd-bytes']).toBeGreaterThan((MEMORY_BYTES / 4) * 3)
    expect(report['total-time']).toBeGreaterThan(0)
    expect(await destination.runState()).toBe('prelaunch')
    expect(await source.runState()).toBe('postmigrate')
    expect(differingPages(await destination.readGuest(0, MEMORY_BYTES), known)).toEqual([])
    expect(await sameRam(source, destination)).toBe(true)
    expect(readFileSync(file).equals(known)).toBe(true)
  })

  it('has what was loaded into anonymous RAM, and a changed byte is seen', async () => {
    const file = folder.file('content')
    const bytes = 1 << 20
    const address = 0x200000
    writeKnownRam(file, bytes, 6)
    await using guest = await QemuGuest.start({ paused: true, load: [{ file, address }] })
    const saved = await guest.readGuest(address, bytes)
    const known = knownRam(bytes, 6)
    expect(saved.equals(known)).toBe(true)
    known.writeUInt8(known.readUInt8(5 * 4096 + 9) ^ 1, 5 * 4096 + 9)
    expect(differingPages(saved, known)).toEqual([5])
    expect(await guest.counter()).toBe(0)
  })
})

describe('a running guest', () => {
  it.each([
    { compression: 'none', channels: 2 },
    { compression: 'zlib', channels: 1 },
    { compression: 'zstd', channels: 2 },
    { multifd: false },
  ] as const)('goes on at the destination after several passes: %o', async (setup) => {
    // A window so large, at such a limit, that it cannot be sent within the allowed downtime.
    const guest = { windowBytes: 4 << 20 }
    await using source = await QemuGuest.start({ name: 'source', guest })
    await using destination = await QemuGuest.start({ ...incoming, guest })
    await source.waitUntilCounting()
    const limited = { bandwidthBytesPerSecond: 16 << 20, downtimeLimitMs: 1 }
    await source.enableMultifd({ ...setup, ...limited })
    await destination.enableMultifd(setup)
    await source.migrate(await destination.incoming())
    await source.waitForPasses(3)
    expect(await source.runState()).toBe('running')
    await source.setLimits({ downtimeLimitMs: 10_000 })
    const report = await source.waitFor('completed')
    expect(report.ram?.['dirty-sync-count']).toBeGreaterThan(3)

    const atSwitchover = await source.counter()
    expect(await source.wrongInWindow()).toBeUndefined()
    await destination.waitFor('completed')
    await destination.counterBeyond(atSwitchover + (2 * guest.windowBytes) / 4096)
    await destination.stop()
    expect(await destination.wrongInWindow()).toBeUndefined()
    expect(await destination.errors()).toBe(0)
  })

  it('stops at the destination where the source stopped, its RAM identical', async () => {
    const guest = { windowBytes: 1 << 20 }
    await using source = await QemuGuest.start({ name: 'source', guest })
    await using destination = await QemuGuest.start({ ...incoming, paused: true, guest })
    await source.waitUntilCounting()
    await source.enableMultifd()
    await destination.enableMultifd()
    await source.migrate(await destination.incoming())
    await source.waitFor('completed')
    await destination.waitFor('completed')
    expect(await destination.runState()).toBe('paused')
    expect(await destination.counter()).toBe(await source.counter())
    expect(await sameRam(source, destination)).toBe(true)
    await destination.cont()
    await destination.counterBeyond(await source.counter())
  })

  it('counts, stops and counts on', async () => {
    await using guest = await QemuGuest.start()
    await guest.waitUntilCounting()
    await guest.stop()
    await guest.waitForRunState('paused')
    const stopped = await guest.counter()
    expect(await guest.wrongInWindow()).toBeUndefined()
    expect(await guest.counter()).toBe(stopped)
    await guest.cont()
    expect(await guest.counterBeyond(stopped)).toBeGreaterThan(stopped)
  })

  it('resumes at the source when the destination dies', async (context) => {
    const guest = { windowBytes: 8 << 20 } // 8 s at that limit
    await using source = await QemuGuest.start({ name: 'source', guest })
    await using destination = await QemuGuest.start({ ...incoming, guest })
    await source.waitUntilCounting()
    await source.enableMultifd({ bandwidthBytesPerSecond: 1 << 20 })
    await destination.enableMultifd()
    await source.migrate(await destination.incoming())
    await source.waitFor('active')
    expect((await destination.kill()).signal).toBe('SIGKILL')
    await expectGuestStays(context, source)
  })
})

describe('what goes wrong', () => {
  it('is refused where QEMU would lose pages of a running guest', async () => {
    const even = { memoryBytes: 64 << 20 }
    await expect(QemuGuest.start(even)).rejects.toThrow(/no multiple of 262144 .* add 8192/)
    await expect(QemuGuest.start({ memoryBytes: 4096 })).rejects.toThrow('a multiple of 8192')
  })

  it("is told in QEMU's words", async () => {
    await using guest = await QemuGuest.start({ paused: true })
    await expect(guest.qmp.execute('no-such-command')).rejects.toMatchObject({
      errorClass: 'CommandNotFound',
    })
    await expect(guest.incoming()).rejects.toMatchObject({
      command: 'migrate-incoming',
      errorClass: 'GenericError',
      desc: "'-incoming' was not specified on the command line",
    })
  })

  it('names the exit status and stderr of a QEMU that does not start', async () => {
    const start = QemuGuest.start({ name: 'source', machine: 'no-such-machine' })
    await expect(start).rejects.toThrow(/the source QEMU ended \(exit status 1\): .*unsupported/)
  })

  it('names the binary that is not there, and how to get one', async () => {
    const before = process.env.QEMU_BINARY
    process.env.QEMU_BINARY = '/nonexistent/qemu'
    try {
      await expect(QemuGuest.start()).rejects.toThrow(
        '/nonexistent/qemu --version failed: there is no such program; install QEMU ' +
          '("apt-get install qemu-system-x86"), or name the binary in the environment variable ' +
          'QEMU_BINARY',
      )
    } finally {
      if (before === undefined) delete process.env.QEMU_BINARY
      else process.env.QEMU_BINARY = before
    }
  })

  it('ends what waits for a QEMU that was killed', async () => {
    await using guest = await QemuGuest.start({ name: 'source', paused: true })
    const waiting = guest.waitFor('completed').catch((error: Error) => error.message)
    process.kill(guest.pid, 'SIGKILL')
    expect(await waiting).toMatch('the source QEMU ended (SIGKILL)')
    await expect(guest.counter()).rejects.toThrow('the source QEMU ended (SIGKILL)')
  })
})

describe('nothing is left', () => {
  it('of a QEMU that quit or was disposed of', async () => {
    const guest = await QemuGuest.start({ paused: true })
    expect(existsSync(guest.folder)).toBe(true)
    expect((await guest.quit()).code).toBe(0)
    await guest[Symbol.asyncDispose]()
    await guest[Symbol.asyncDispose]()
    expect(existsSync(guest.folder)).toBe(false)
    expect(isRunning(guest.pid)).toBe(false)
  })

  it.each(['exits', 'is killed'] as const)('when who started it %s', async (ending) => {
    const owner = new URL('./qemu-owner.ts', import.meta.url).pathname
    const { signal } = new AbortController()
    const args = [...TYPESCRIPT_ARGUMENTS, owner, ending]
    const child = await Child.start('the owner', process.execPath, args, { signal })
    const started = await child.expect<{ pid: number; folder: string }>('ready', { signal })
    if (ending === 'is killed') {
      expect(isRunning(started.pid)).toBe(true)
      child.signal('SIGKILL')
    }
    await child[Symbol.asyncDispose]()
    await expect.poll(() => isRunning(started.pid), { timeout: 30_000 }).toBe(false)
    // Who was killed could not remove its folder; the next one does.
    new ScratchFolder().remove()
    expect(existsSync(started.folder)).toBe(false)
  })
})

describe('the comparison with QEMU', () => {
  it('gives plausible figures at smoke size', async () => {
    const memoryBytes = 128 << 20
    const figures = await qemuToQemu({ memoryBytes, channels: 2 })
    expect(figures.transferredBytes).toBeGreaterThan(memoryBytes)
    expect(figures.transferredBytes).toBeLessThan(memoryBytes * 1.1)
    expect(figures.bytesPerSecond).toBeCloseTo(memoryBytes / figures.seconds)
    expect(figures.sourceCpuSeconds + figures.destinationCpuSeconds).toBeGreaterThan(0)
    expect(figures.qemu).toMatch(/^QEMU emulator version/)
  })

  it('leaves no QEMU behind when it is aborted', async () => {
    const abort = new AbortController()
    const running = qemuToQemu({ memoryBytes: 64 << 20, channels: 2, signal: abort.signal })
    abort.abort(new Error('enough'))
    await expect(running).rejects.toThrow('enough')
  })
})
