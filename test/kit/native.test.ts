// The loader of the addon and the errors made of what native code reports.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { checked, type NativeError, native, toError } from '../../src/kit/native.ts'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'

const refused: NativeError = {
  code: 'ERR_MULTIFD_CHANNEL',
  detail: 'connecting to 127.0.0.1:1 failed',
  errno: 111,
  syscall: 'connect',
}

/** What a process of its own prints; `environment` is added to ours. */
async function run(script: string, environment: Record<string, string> = {}): Promise<string> {
  const args = [...TYPESCRIPT_ARGUMENTS, '--input-type=module', '--eval', script]
  const options = { env: { ...process.env, ...environment } }
  const { stdout } = await promisify(execFile)(process.execPath, args, options)
  return stdout
}

const index = JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)

describe('toError', () => {
  it('says what was done, what failed, and the name of the kernel’s reason', () => {
    const error = toError(refused, 'multifd channel 3', { channelId: 3 })
    expect(error.message).toBe(
      'multifd channel 3: connecting to 127.0.0.1:1 failed (connect: ECONNREFUSED)',
    )
    expect(error).toMatchObject({
      code: 'ERR_MULTIFD_CHANNEL',
      errno: 'ECONNREFUSED',
      syscall: 'connect',
      channelId: 3,
    })
  })

  it('leaves the kernel out where no system call failed, and knows numbers without a name', () => {
    const own = toError({ code: 'ERR_MULTIFD_PROTOCOL', detail: 'bad magic', errno: 0 }, 'reading')
    expect(own.message).toBe('reading: bad magic')
    expect(own.errno).toBeUndefined()
    expect(toError({ ...refused, errno: 99_999 }, 'x').errno).toMatch(/99999/)
  })
})

describe('checked', () => {
  it('gives values through, and throws error objects', () => {
    for (const value of [undefined, null, 0, 'text', { detail: 'no error' }]) {
      expect(checked<unknown>(value, 'asking')).toBe(value)
    }
    expect(() => checked<unknown>(refused, 'asking')).toThrow('asking: connecting')
  })
})

describe('the addon', () => {
  it('is loaded once, and counts what it holds by name', () => {
    expect(native()).toBe(native())
    const counted = Object.keys(native().census())
    for (const name of ['sockets', 'threads', 'mappings', 'userfaultFds', 'leakedRecords']) {
      expect(counted).toContain(name)
    }
    expect(native().threadCpuNanoseconds()).toBeGreaterThan(0)
  })

  it('refuses objects that are not its own', () => {
    const foreign = {} as never
    for (const made of [
      native().createRamState(foreign, 'hash'),
      native().createDirtyLog(foreign),
      native().createSendGroup(foreign),
      native().createReceiveGroup(foreign),
    ]) {
      expect(made).toMatchObject({ code: 'ERR_MULTIFD_CLOSED' })
    }
  })

  it('that is missing is an error at first use, not at import, and says what to do', async () => {
    const script = `
      import { GuestMemory } from ${index}
      console.log('imported')
      try { GuestMemory.allocate('ram', 4096) } catch ({ code, message }) {
        console.log(code)
        console.log(message)
      }`
    const printed = await run(script, { MULTIFD_NATIVE: '/nowhere/multifd.node' })
    const [first, code, message] = printed.split('\n')
    expect([first, code]).toEqual(['imported', 'ERR_MULTIFD_NATIVE_LOAD'])
    expect(message).toContain('/nowhere/multifd.node could not be loaded')
    expect(message).toContain('npm run build:native')
  })

  it('does not keep a process alive that holds memory or has migrated', async () => {
    const script = `
      import { GuestMemory, MigrationDestination, MigrationSource } from ${index}
      const from = GuestMemory.allocate('ram', 1 << 20)
      const to = GuestMemory.allocate('ram', 1 << 20)
      from.view('ram').fill(1)
      const d = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
      await new MigrationSource({ memory: from, vmm: { stop() {}, resume() {} } }).migrate(d.uri).result
      await d.completed
      console.log(to.view('ram')[1 << 19])`
    expect(await run(script)).toBe('1\n')
  })
})
