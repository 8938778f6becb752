// A path that breaks while the guest runs: both sides keep what they have, the source connects
// again, and what came is not sent twice. At the end the destination has every page.

import { afterAll, describe, expect, it } from 'vitest'
import { GuestMemory, MigrationDestination, MigrationSource } from '../../src/index.ts'
import { native } from '../../src/kit/native.ts'
import type { MigrationSourceOptions } from '../../src/migrate/source-options.ts'
import { type Cut, CuttingProxy } from '../support/cutting-proxy.ts'
import { failure, idleVmm } from '../support/migration.ts'
import { expectSamePages, fillPages, testSeed } from '../support/pages.ts'

const MIB = 1024 * 1024
const SIZE = 32 * MIB
/** Every 16th page is zero. */
const PAGES_BYTES = (SIZE / 16) * 15
const before = native().census()
afterAll(() => expect(native().census()).toEqual(before))

interface Broken extends AsyncDisposable {
  from: GuestMemory
  to: GuestMemory
  proxy: CuttingProxy
  destination: MigrationDestination
  source: MigrationSource
}

async function brokenPath(
  options: Partial<MigrationSourceOptions> = {},
  reconnectTimeoutMs = 10_000,
): Promise<Broken> {
  const from = GuestMemory.of([{ idstr: 'ram', sizeBytes: SIZE }])
  const to = GuestMemory.of([{ idstr: 'ram', sizeBytes: SIZE }])
  fillPages(from.view('ram'), testSeed())
  const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
    memory: to,
    reconnectTimeoutMs,
  })
  const proxy = await CuttingProxy.before(destination.uri)
  const source = new MigrationSource({ memory: from, vmm: idleVmm, ...options })
  return {
    ...{ from, to, proxy, destination, source },
    async [Symbol.asyncDispose]() {
      await destination.close()
      await proxy[Symbol.asyncDispose]()
      await from.close()
      await to.close()
    },
  }
}

describe('a connection that breaks', () => {
  const cases: [Cut, number, number][] = [
    ['reset', 0.02, 2],
    ['end', 0.5, 1],
    ['reset', 0.5, 4],
    ['reset', 0.8, 2],
  ]
  for (const [how, share, multifdChannels] of cases) {
    it(`by ${how} at ${share * 100} % of round 0, ${multifdChannels} channels`, async () => {
      await using path = await brokenPath({ multifdChannels })
      path.proxy.cutAfter(SIZE * share, how)
      const { transferredBytes } = await path.source.migrate(path.proxy.uri).result
      await path.destination.completed
      expect(path.proxy.cuts).toBe(1)
      expectSamePages(path.to.view('ram'), path.from.view('ram'))
      // What the kernel had taken and not delivered is sent again: socket buffers on both sides.
      expect(transferredBytes).toBeGreaterThan(PAGES_BYTES)
      expect(transferredBytes).toBeLessThan(2 * SIZE)
    })
  }
})

describe('a connection that stays away', () => {
  it('fails both sides when their time is over, and the guest runs on', async () => {
    await using path = await brokenPath({ reconnectTimeoutMs: 100 }, 100)
    path.proxy.cutAfter(SIZE / 2)
    const migration = path.source.migrate(path.proxy.uri)
    const closing = closesWhenBroken(path.proxy)
    const error = await failure(migration.result)
    clearInterval(closing)
    expect(error.message).toMatch(/could not be reached again/)
    expect(migration.status).toBe('failed')
    const other = await failure(path.destination.completed)
    expect(other.message).toMatch(/did not connect again/)
  })
})

/** From the first cut on nothing comes through. */
function closesWhenBroken(proxy: CuttingProxy): NodeJS.Timeout {
  return setInterval(() => {
    if (proxy.cuts > 0) proxy.close()
  }, 0)
}
