// `multifd bench` as whole commands: a server and its clients, at sizes that take a moment.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { release } from 'node:os'
import { describe, expect, it } from 'vitest'
import { cliCommand, runCli } from './run-cli.ts'

const QUICK = ['--time', '1', '--memory', '4']

/** A command while it runs. */
class Running implements AsyncDisposable {
  readonly #child
  readonly #ended: Promise<unknown[]>
  stderr = ''

  constructor(...args: string[]) {
    const [file = '', ...rest] = cliCommand('bench', ...args)
    this.#child = spawn(file, rest, { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#child.stderr.setEncoding('utf8').on('data', (text) => {
      this.stderr += text
    })
    this.#ended = once(this.#child, 'close')
  }

  /** Waits until stderr says so. */
  async says(pattern: RegExp): Promise<string> {
    for (;;) {
      const found = pattern.exec(this.stderr)
      if (found !== null) return found[1] ?? ''
      const ended = this.#ended.then(() => 'ended')
      const more = await Promise.race([once(this.#child.stderr, 'data'), ended])
      if (more === 'ended') throw new Error(`it ended, having said: ${this.stderr}`)
    }
  }

  /** Ctrl-C; how it ends. */
  async interrupt(): Promise<unknown> {
    this.#child.kill('SIGINT')
    const [exitCode] = await this.#ended
    return exitCode
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }
}

async function startServer() {
  const server = new Running('--server', '127.0.0.1:0')
  return { server, uri: await server.says(/Waiting on (tcp:\S+)/) }
}

/** Answers every connection with this line. */
async function impostor(line: string) {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}))
    socket.write(line)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    uri: `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

describe('multifd bench', () => {
  it('measures with 1, 2, 4 and 8 channels, then with the best, again and again', async () => {
    const { server, uri } = await startServer()
    await using _ = server
    const end = await runCli('bench', uri, ...QUICK, '--json')
    expect(end.stderr).toMatch(/^1 channel: .*\n2 channels: .*\n4 channels: .*\n8 channels: .*\n$/)
    expect(end.exitCode).toBe(0)
    const result = JSON.parse(end.stdout)
    expect(result).toMatchObject({ status: 'completed', uri, guestBytes: 4 * 2 ** 20 })
    expect(result.trials).toHaveLength(4)
    for (const trial of [result, ...result.trials]) {
      expect(trial.migrations).toBeGreaterThan(0)
      expect(trial.throughputBytesPerSecond).toBeGreaterThan(0)
      expect(trial.sourceCpuSecondsPerGb).toBeGreaterThan(0)
      expect(trial.destinationCpuSecondsPerGb).toBeGreaterThan(0)
      expect(trial.copiedShare).toBeGreaterThanOrEqual(0)
    }
    expect(result.estimates[0].seconds).toBeGreaterThan(0)
    expect(result.environment).toMatchObject({ node: process.version, kernel: release() })
    await server.says(/is done: \d+ migrations(), .* CPU-s per GB here/)

    const again = await runCli('bench', uri, ...QUICK)
    expect(again.stdout).toMatch(/^Throughput .* with \d channels?\nCPU time /)
    expect(again.exitCode).toBe(0)
    expect(await server.interrupt()).toBe(130)
  })

  it('serves one client at a time', async () => {
    const { server, uri } = await startServer()
    await using _ = server
    const first = connect(Number(uri.split(':').at(-1)), '127.0.0.1')
    await server.says(/(\S+) measures/)
    const end = await runCli('bench', uri, ...QUICK)
    expect(end.stderr).toContain('the server measures with another client; try again soon')
    expect(end.exitCode).toBe(1)
    first.write('nonsense\n')
    await server.says(/(does not speak) as multifd bench does/)
    first.destroy()
    expect((await runCli('bench', uri, ...QUICK)).exitCode).toBe(0)
  })

  it('ends with 130 at both ends on Ctrl-C, also in the middle of it', async () => {
    const { server, uri } = await startServer()
    await using _ = server
    await using client = new Running(uri, '--time', '5', '--memory', '16')
    await client.says(/(1 channel): /)
    expect(await client.interrupt()).toBe(130)
    expect(client.stderr).toContain('multifd: interrupted by SIGINT')
    await server.says(/measures\n.*(closed the connection)/)
    await using other = new Running(uri, '--time', '5', '--memory', '16')
    await server.says(/measures[\s\S]*measures()/)
    expect(await server.interrupt()).toBe(130)
    await other.says(/multifd: .*(interrupted by SIGINT|closed the connection)/)
  })

  it('says what is wrong where no server is', async () => {
    await using stranger = await impostor('SSH-2.0-OpenSSH\r\n')
    const foreign = await runCli('bench', stranger.uri)
    expect(foreign.stderr).toContain(`${stranger.uri} does not speak as multifd bench does`)
    expect(foreign.exitCode).toBe(1)

    await using later = await impostor('{"multifdBench":2}\n')
    const version = await runCli('bench', later.uri)
    expect(version.stderr).toContain('is no multifd bench server of this version')

    const nobody = await runCli('bench', 'tcp:127.0.0.1:1', '--json')
    expect(nobody.stderr).toMatch(/no multifd bench server answers .*ECONNREFUSED.*bench --server/)
    expect(JSON.parse(nobody.stdout)).toMatchObject({
      status: 'failed',
      code: 'ERR_MULTIFD_CHANNEL',
    })
    expect(nobody.exitCode).toBe(1)
  })

  it.each([
    [['bench'], 2, 'name the host where "multifd bench --server" runs'],
    [['bench', 'host', '--time', '0'], 2, 'a whole number from 1 to 600'],
    [['bench', 'unix:/tmp/a'], 2, 'multifd bench measures TCP, got unix:/tmp/a'],
    [['bench', '--server', '0.0.0.0:0'], 1, 'not on this machine'],
    [['bench', '192.0.2.1'], 1, 'not on this machine'],
  ])('refuses %j', async (args, exitCode, problem) => {
    const end = await runCli(...args)
    expect(end.stderr).toContain(problem)
    expect(end).toMatchObject({ exitCode, stdout: '' })
  })
})
