// `multifd receive` as an operator uses it: what it prints is typed into a live QEMU.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { beforeEach, describe, expect, it } from 'vitest'
import { QemuGuest } from '../../bench/qemu/guest.ts'
import { ScratchFolder } from '../../bench/qemu/scratch-folder.ts'
import { verifySnapshot } from '../../src/snapshot/snapshot-directory.ts'
import { cliCommand } from '../cli/run-cli.ts'
import { expectGuestStays } from '../support/qemu/guest-stays.ts'
import { qemuOrSkip } from '../support/qemu/qemu-or-skip.ts'

let folder: ScratchFolder

beforeEach(async (context) => {
  await qemuOrSkip(context)
  folder = new ScratchFolder()
  return () => folder.remove()
})

const snapshot = (): string => join(folder.path, 'snapshot')

/** The command, and the lines that it says to type. */
class Receiving implements AsyncDisposable {
  readonly child: ChildProcess
  readonly hmp: string[] = []
  readonly qmp: string[] = []
  stdout = ''

  constructor(...options: string[]) {
    const args = ['receive', 'tcp:127.0.0.1:0', '--out', snapshot(), '--json', ...options]
    const [file = '', ...rest] = cliCommand(...args)
    this.child = spawn(file, rest, { stdio: ['ignore', 'pipe', 'pipe'] })
    this.child.stdout?.setEncoding('utf8').on('data', (text) => {
      this.stdout += text
    })
  }

  async told(): Promise<this> {
    if (this.child.stderr === null) throw new Error('no stderr')
    for await (const line of createInterface({ input: this.child.stderr })) {
      if (!line.startsWith('  ')) continue
      const typed = line.trim()
      if (typed.startsWith('{')) this.qmp.push(typed)
      else this.hmp.push(typed)
      if (typed.includes('"migrate"')) break
    }
    this.child.stderr.resume()
    return this
  }

  async exitCode(): Promise<number | null> {
    if (this.child.exitCode === null) await once(this.child, 'close')
    return this.child.exitCode
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill('SIGKILL')
    await this.exitCode()
  }
}

describe('what multifd receive says', () => {
  it.each(['hmp', 'qmp'] as const)('works, typed as %s', async (language) => {
    await using source = await QemuGuest.start({ paused: true })
    await using receiving = await new Receiving('--channels', '3').told()
    for (const line of receiving[language]) {
      if (language === 'hmp') {
        const answer = await source.qmp.execute('human-monitor-command', { 'command-line': line })
        expect(answer).toBe('')
      } else {
        const { execute, arguments: given } = JSON.parse(line)
        await source.qmp.execute(execute, given)
      }
    }
    await source.waitFor('completed')
    expect(await receiving.exitCode()).toBe(0)
    const result = JSON.parse(receiving.stdout.trimEnd().split('\n').at(-1) ?? '')
    expect(result).toMatchObject({ status: 'completed', hashed: true, warnings: [] })
    expect(result.channels).toHaveLength(3)
    const { manifest } = await verifySnapshot(snapshot())
    expect(result.manifest).toEqual(manifest)
  })

  it('leaves a running guest where it is when it is interrupted', async (context) => {
    await using source = await QemuGuest.start()
    await source.waitUntilCounting()
    await using receiving = await new Receiving().told()
    await source.setLimits({ bandwidthBytesPerSecond: 1 << 20 })
    for (const line of receiving.qmp) {
      const { execute, arguments: given } = JSON.parse(line)
      await source.qmp.execute(execute, given)
    }
    await source.waitForPasses(1)
    receiving.child.kill('SIGINT')
    expect(await receiving.exitCode()).toBe(130)
    expect(existsSync(snapshot())).toBe(false)
    await expectGuestStays(context, source)
  })
})
