// `multifd relay` as a whole command, between a recorded source and a destination of plain sockets:
// what it says, how it ends, and what an operator says to it by signals.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it } from 'vitest'
import { type DestinationBehaviour, RecordingDestination } from '../relay/recording-destination.ts'
import { expectSourceHeld, expectSourceResumes, recordedSource } from '../relay/relaying.ts'
import { QemuPeer } from '../snapshot/qemu-peer.ts'
import { cliCommand, runCli } from './run-cli.ts'

const NAME = 'q72-legacy-none'

/** The command while it runs. */
class RunningRelay implements AsyncDisposable {
  readonly destination: RecordingDestination
  readonly #child
  readonly #ended: Promise<unknown>
  stdout = ''
  stderr = ''

  private constructor(destination: RecordingDestination, flags: readonly string[]) {
    this.destination = destination
    const [file = '', ...args] = cliCommand(
      ...['relay', 'tcp:127.0.0.1:0', destination.uri, '--json', ...flags],
    )
    this.#child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child.stdout.setEncoding('utf8').on('data', (text) => {
      this.stdout += text
    })
    this.#child.stderr.setEncoding('utf8').on('data', (text) => {
      this.stderr += text
    })
    this.#ended = once(this.#child, 'close')
  }

  static async start(
    behaviour: DestinationBehaviour = {},
    ...flags: string[]
  ): Promise<RunningRelay> {
    return new RunningRelay(await RecordingDestination.listen(behaviour), flags)
  }

  /** Waits until stderr says so. */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.stderr)
      if (found !== null) return found
      await once(this.#child.stderr, 'data')
    }
  }

  async source(): Promise<QemuPeer> {
    const [, uri = ''] = await this.says(/"migrate","arguments":\{"uri":"([^"]+)"/)
    return new QemuPeer(uri)
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  async ends(): Promise<{ exitCode: number | null; report: Record<string, unknown> }> {
    await this.#ended
    const report = JSON.parse(this.stdout.trim().split('\n').at(-1) ?? '')
    return { exitCode: this.#child.exitCode, report }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
    await this.destination[Symbol.asyncDispose]()
  }
}

const silent: DestinationBehaviour = { at: () => 'silence' }
const SECOND = ['--peer-timeout', '1']

describe('multifd relay', () => {
  it.each([
    [['relay', 'tcp:127.0.0.1:0'], "missing required argument 'connect-uri'"],
    [['relay', 'tcp:127.0.0.1:0', 'ftp:x'], 'not a migration URI'],
    [['relay', 'unix:/a', 'unix:/b', '--channels', '256'], 'a whole number from 0 to 255'],
    [['relay', 'unix:/a', 'unix:/b', '--to-channels', '0'], 'must both be 0'],
    [['relay', 'unix:/a', 'unix:/b', '--to-compression', 'lz4'], 'none, zlib, zstd'],
    [['relay', 'unix:/a', 'unix:/b', '--to-level', '3'], 'needs a toCompression'],
  ])('refuses %j with exit code 2', async (args, problem) => {
    const end = await runCli(...args)
    expect(end.stderr).toContain(problem)
    expect(end).toMatchObject({ exitCode: 2, stdout: '' })
  })

  it('says what to type on either side, and reports the end as JSON', async () => {
    await using running = await RunningRelay.start({}, '--to-channels', '3')
    await using source = await running.source()
    await source.play(recordedSource(NAME))
    const { exitCode, report } = await running.ends()
    expect(exitCode).toBe(0)
    expect(report).toMatchObject({ status: 'completed', machine: 'pc-q35-7.2', sourceTold: true })
    expect(report.destinationChannels).toHaveLength(3)
    const { stderr } = running
    expect(stderr).toContain('migrate_set_parameter multifd-channels 3')
    expect(stderr).toContain(`migrate_incoming ${running.destination.uri}`)
    expect(stderr).toContain('migrate_set_capability return-path on')
    expect(stderr).toMatch(/\nactive\n.*\nthe destination has the guest: .* 3 sync points\n$/s)
  })

  it('fails where it cannot listen', async () => {
    const end = await runCli('relay', 'unix:/nowhere/at/all', 'tcp:127.0.0.1:1', '--json')
    expect(JSON.parse(end.stdout)).toMatchObject({ status: 'failed', code: 'ERR_MULTIFD_CHANNEL' })
    expect(end.exitCode).toBe(1)
  })

  it('fails with exit code 1 and a sentence', async () => {
    await using running = await RunningRelay.start()
    await using source = await running.source()
    const [, second = new Uint8Array(64)] = recordedSource(NAME).channels
    await source.connect(second)
    await source.connect(second)
    const { exitCode, report } = await running.ends()
    expect(exitCode).toBe(1)
    expect(report).toMatchObject({ status: 'failed', code: 'ERR_MULTIFD_HANDSHAKE' })
    expect(running.stderr).toMatch(/^multifd: the connection from .* which is connected already$/m)
  })

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('ends with %s: exit code %i, and the source resumes', async (signal, code) => {
    await using running = await RunningRelay.start()
    await using source = await running.source()
    const { main, channels } = recordedSource(NAME)
    const half = main.subarray(0, main.length / 2)
    const connection = await source.play({ main: half, channels })
    await running.says(/\nactive\n/)
    running.kill(signal)
    const { exitCode, report } = await running.ends()
    expect(exitCode).toBe(code)
    expect(report).toMatchObject({ status: 'cancelled', code: 'ERR_MULTIFD_ABORTED' })
    await expectSourceResumes(connection)
  })

  it('in doubt holds the source, whatever Ctrl-C, until SIGTERM lets it resume', async () => {
    await using running = await RunningRelay.start(silent, ...SECOND)
    await using source = await running.source()
    const connection = await source.play(recordedSource(NAME))
    await running.says(/unknown: the destination said nothing .*Look at the destination first/)
    await running.says(/kill -USR2 \d+\n.*kill -TERM \d+\n/)
    running.kill('SIGINT')
    await running.says(/nobody knows who has the guest/)
    running.kill('SIGHUP') // the operator's terminal closes
    running.kill('SIGINT')
    await running.says(/(nobody knows[\s\S]*){2}/)
    expectSourceHeld(connection)
    running.kill('SIGTERM')
    const { exitCode, report } = await running.ends()
    expect(exitCode).toBe(1)
    expect(report).toMatchObject({ status: 'failed', code: 'ERR_MULTIFD_STATE' })
    await expectSourceResumes(connection)
  })

  it('in doubt tells the source with SIGUSR2 that the destination has the guest', async () => {
    await using running = await RunningRelay.start(silent, ...SECOND)
    await using source = await running.source()
    const connection = await source.play(recordedSource(NAME))
    await running.says(/kill -TERM \d+\n/)
    running.kill('SIGUSR2')
    const { exitCode, report } = await running.ends()
    expect(exitCode).toBe(0)
    expect(report).toMatchObject({ status: 'completed', sourceTold: true })
    await connection.gone
    expect(connection.received.subarray(-8).toString('hex')).toBe('0001000400000000')
  })

  it('with the destination only asked, SIGTERM does not resume the source', async () => {
    await using running = await RunningRelay.start(silent, '--peer-timeout', '600')
    await using source = await running.source()
    const connection = await source.play(recordedSource(NAME))
    await running.says(/has to answer/)
    running.kill('SIGTERM')
    await running.says(/unknown: the relay was ended by its caller/)
    expectSourceHeld(connection)
    running.kill('SIGTERM')
    expect((await running.ends()).exitCode).toBe(1)
  })
})
