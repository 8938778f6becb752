// Thousands of whole migrations in a simulated world, drawn by lot from their seeds: faults at any
// byte and in any state. Repeat one with MULTIFD_TEST_SEED=n; MULTIFD_TEST_SEEDS=n runs so many.

import { beforeAll, describe, expect, it, vi } from 'vitest'
import type { NativeAddon } from '../../src/kit/native.ts'
import type { Lots } from './draw.ts'
import { fakeAddon, presentWorld } from './fake-addon.ts'
import { SimulatedMain } from './main-channel.ts'
import { drawBreaks, drawScenario, type Scenario } from './scenario.ts'
import { Simulation } from './simulation.ts'
import type { Sabotage } from './world.ts'

/** What the code under test gets in place of the addon and of sockets, once both are loaded. */
const simulated = vi.hoisted(() => ({
  addon: undefined as NativeAddon | undefined,
  main: {} as Record<'connect' | 'adopt', (...given: never[]) => unknown>,
}))
vi.mock('../../src/kit/native.ts', async (original) => ({
  ...(await original<object>()),
  native: () => simulated.addon,
}))
vi.mock('../../src/channel/main-channel.ts', () => ({ MainChannel: simulated.main }))

type Connect = Parameters<typeof SimulatedMain.connect>
type Adopt = Parameters<typeof SimulatedMain.adopt>

beforeAll(() => {
  simulated.addon = fakeAddon
  simulated.main.connect = (...[endpoint, options, listener]: never[]) =>
    SimulatedMain.connect(...([presentWorld(), endpoint, options, listener] as unknown as Connect))
  simulated.main.adopt = (...[connection, listener]: never[]) =>
    SimulatedMain.adopt(...([presentWorld(), connection, listener] as unknown as Adopt))
})

/** Of the first seed that fails; a repeated one shows all of its log. */
const LOG_LINES_MAX = 100

const given = process.env.MULTIFD_TEST_SEED
const count = Number(process.env.MULTIFD_TEST_SEEDS ?? 2000)
const first = given === undefined ? Math.floor(Math.random() * 2 ** 30) : Number(given)
const runs = given === undefined ? count : 1

async function runAll(draw: (lots: Lots) => Scenario, many: number): Promise<string[]> {
  const ends = new Map<string, number>()
  const failures: string[] = []
  const startedMs = performance.now()
  let virtualMs = 0
  for (let seed = first; seed < first + many && failures.length < 3; seed += 1) {
    const outcome = await Simulation.run(seed, draw)
    const end = `${outcome.source}/${outcome.destination}`
    ends.set(end, (ends.get(end) ?? 0) + 1)
    virtualMs += outcome.virtualMs
    if (outcome.violations.length === 0 && given === undefined) continue
    const problem = `seed ${seed} (repeat with MULTIFD_TEST_SEED=${seed}): ${outcome.violations}`
    const log = given === undefined ? outcome.log.slice(-LOG_LINES_MAX) : outcome.log
    if (failures.length === 0) console.log([...log, problem].join('\n'))
    if (outcome.violations.length > 0) failures.push(problem)
  }
  const seconds = (performance.now() - startedMs) / 1000
  const told = [...ends].sort(([, left], [, right]) => right - left)
  console.log(
    `seeds ${first} to ${first + many - 1}: ${(many / seconds).toFixed(0)} a second, ` +
      `${(virtualMs / many / 1000).toFixed(1)} s each of the simulated clock; ` +
      told.map(([end, times]) => `${end} ${times}`).join(', '),
  )
  return failures
}

describe('a migration in which anything may go wrong', { timeout: 600_000 }, () => {
  it('keeps one owner, the same memory, its promises, and nothing', async () => {
    expect(await runAll(drawScenario, runs)).toEqual([])
  })

  it('is completed whatever breaks while the guest runs, if both sides wait long enough', async () => {
    expect(await runAll(drawBreaks, Math.ceil(runs / 5))).toEqual([])
  })
})

/** A simulation that finds nothing proves nothing. */
describe.skipIf(given !== undefined)('what is broken on purpose is found', () => {
  const broken: Sabotage[] = [
    'lose-late-page',
    'forget-given-back',
    'count-torn-packet',
    'no-park',
    'keep-received',
  ]
  it.each(broken)('%s', async (sabotage) => {
    const draw = sabotage === 'lose-late-page' ? drawScenario : drawBreaks
    let found = false
    for (let seed = first; !found && seed < first + 400; seed += 1) {
      const { violations } = await Simulation.run(seed, (lots) => draw(lots, sabotage))
      found = violations.length > 0
    }
    expect(found).toBe(true)
  })
})
