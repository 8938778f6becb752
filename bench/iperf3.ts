// iperf3, where it is installed: an outside opinion on the plain C++ loop.
import { execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { promisify } from 'node:util'

/** Its version line, or undefined where it is not installed. */
export function iperf3Version(): string | undefined {
  try {
    return execFileSync('iperf3', ['--version'], { stdio: ['ignore', 'pipe', 'ignore'] })
      .toString()
      .split('\n')[0]
  } catch {
    return undefined
  }
}

/** Sends `bytes` in all over `streams` connections on loopback; bytes per second, received. */
export async function runIperf3(
  { bytes, streams }: { bytes: number; streams: number },
  { signal }: { signal: AbortSignal },
): Promise<number> {
  const port = await freePort()
  const serverArgs = ['-s', '-1', '-B', '127.0.0.1', '-p', String(port), '--forceflush']
  const server = spawn('iperf3', serverArgs, { signal, killSignal: 'SIGKILL' })
  const exited = once(server, 'close')
  exited.catch(() => {})
  try {
    await Promise.race([once(server.stdout, 'data'), exited]) // it says that it listens
    const clientArgs = [
      ...['-c', '127.0.0.1', '-p', String(port), '-P', String(streams)],
      ...['-n', String(bytes), '-l', '512K', '-J'],
    ]
    const { stdout } = await promisify(execFile)('iperf3', clientArgs, { signal })
    const { end } = JSON.parse(stdout) as {
      end: { sum_received: { bytes: number; seconds: number } }
    }
    return end.sum_received.bytes / end.sum_received.seconds
  } finally {
    server.kill('SIGKILL')
    await exited.catch(() => {})
  }
}

// iperf3 cannot be asked for a port of the kernel's choice.
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new Error('no TCP port is free')
  return address.port
}
