// Draws a whole scenario by lot: guest, memory, options of both sides, what the operator does, and
// what goes wrong. Nothing here runs anything.

import type { MigrationDestinationOptions } from '../../src/migrate/destination-options.ts'
import type { MigrationSourceOptions } from '../../src/migrate/source-options.ts'
import type { MigrationStatus } from '../../src/migrate/status.ts'
import type { Lots } from './draw.ts'
import type { CallFault, DeviceCall, DevicePlan, GuestPlan, VmmCall } from './guest.ts'
import type { Cut } from './pipe.ts'
import { type Disturbances, NATIVE_CALLS, type Sabotage, type Word } from './world.ts'

export type Deed =
  | { what: 'cancel' | 'abort-source' | 'close-destination' | 'abort-destination' }
  | { what: 'pause'; forMs: number }
  | { what: 'limit'; bytesPerSecond: number; downtimeLimitMs: number }
  | { what: 'break-all'; kind: Cut['kind']; stallMs: number }
  | { what: 'outage'; forMs: number }
  | { what: 'stranger'; says: 'nothing' | 'garbage' | 'goodbye' | 'main' | 'channel' }

/** When something happens: at a time, or so long after a word was said or a status began. */
export type When =
  | { afterMs: number }
  | { word: Word; delayMs: number }
  | { side: 'source' | 'destination'; status: MigrationStatus; delayMs: number }

export interface Planned {
  when: When
  deed: Deed
}

export interface Scenario {
  blocks: { idstr: string; pageCount: number }[]
  guest: GuestPlan
  devices: DevicePlan[]
  source: Partial<MigrationSourceOptions>
  destination: Partial<MigrationDestinationOptions>
  disturbances: Disturbances
  planned: Planned[]
  /** In `pre-switchover` the operator waits so long. */
  continueAfterMs: number
  /** Nothing goes wrong, and nobody interferes: it must be completed. */
  calm: boolean
  /** Cuts happen only while the guest runs at the source; it must be completed all the same. */
  cutsSpareTheStop: boolean
}

const STATUSES: readonly MigrationStatus[] = [
  'setup',
  'active',
  'active',
  'reconnecting',
  'pre-switchover',
  'device',
  'device',
  'completed',
  'cancelling',
]

export function drawScenario(lots: Lots, sabotage?: Sabotage): Scenario {
  const calm = lots.chance(0.15)
  const channels = lots.whole(1, 4)
  const faults = calm ? 0 : lots.oneOf([1, 1, 2, 3])
  const devices = drawDevices(lots)
  const scenario: Scenario = {
    blocks: drawBlocks(lots),
    guest: {
      writeEveryMs: lots.spread(1, 50),
      pagesPerWrite: lots.whole(1, 6),
      workingSet: lots.between(0.05, 1),
      restsAfterMs: lots.spread(20, 2000),
      faults: [],
    },
    devices,
    source: drawSource(lots, channels),
    destination: drawDestination(lots),
    disturbances: { cuts: [], native: [], sabotage },
    planned: [],
    continueAfterMs: lots.spread(1, 3000),
    calm,
    cutsSpareTheStop: false,
  }
  if (lots.chance(0.3)) scenario.planned.push({ when: drawWhen(lots), deed: drawPause(lots) })
  if (lots.chance(0.2)) scenario.planned.push({ when: drawWhen(lots), deed: drawLimit(lots) })
  for (let count = 0; count < faults; count += 1) addFault(lots, scenario, channels)
  return scenario
}

/** Where connections break and nothing else goes wrong: what resuming is made for. */
export function drawBreaks(lots: Lots, sabotage?: Sabotage): Scenario {
  const scenario = drawScenario(lots, sabotage)
  const cuts = Array.from({ length: lots.whole(1, 4) }, (): Cut => {
    const cut = drawCut(lots, 4)
    if (cut.kind !== 'stall') return cut
    return { ...cut, stallMs: Number.POSITIVE_INFINITY }
  })
  return {
    ...scenario,
    disturbances: { cuts, native: [], sabotage },
    planned: [],
    guest: { ...scenario.guest, faults: [] },
    devices: scenario.devices.map((device) => {
      return { ...device, faults: { source: [], destination: [] } }
    }),
    source: { ...scenario.source, reconnectTimeoutMs: 30_000 },
    destination: { ...scenario.destination, reconnectTimeoutMs: 30_000 },
    calm: false,
    cutsSpareTheStop: true,
  }
}

function drawBlocks(lots: Lots): Scenario['blocks'] {
  return Array.from({ length: lots.oneOf([1, 1, 2, 3]) }, (_, index) => {
    return { idstr: `ram${index}`, pageCount: lots.spread(1, 120) }
  })
}

function drawSource(lots: Lots, multifdChannels: number): Partial<MigrationSourceOptions> {
  return {
    multifdChannels,
    engine: 'sendmsg',
    connectTimeoutMs: lots.spread(100, 3000),
    peerTimeoutMs: lots.spread(300, 4000),
    deviceTimeoutMs: lots.spread(100, 3000),
    reconnectTimeoutMs: lots.chance(0.4) ? 0 : lots.spread(100, 8000),
    downtimeLimitMs: lots.spread(1, 300),
    pauseBeforeSwitchover: lots.chance(0.2),
    maxBandwidthBytesPerSecond: lots.chance(0.3) ? lots.spread(500_000, 50_000_000) : 0,
    autoConverge: lots.chance(0.3),
    ...(lots.chance(0.2)
      ? { timeLimitMs: lots.spread(10, 3000), timeLimitEnd: 'switchover' as const }
      : {}),
  }
}

function drawDestination(lots: Lots): Partial<MigrationDestinationOptions> {
  return {
    handshakeTimeoutMs: lots.spread(300, 3000),
    // A source that is paused says once in a second that it is there.
    peerTimeoutMs: lots.spread(1500, 4000),
    deviceTimeoutMs: lots.spread(100, 3000),
    reconnectTimeoutMs: lots.chance(0.4) ? 0 : lots.spread(100, 8000),
    memoryIsZero: false,
  }
}

function drawDevices(lots: Lots): DevicePlan[] {
  return Array.from({ length: lots.whole(0, 3) }, (_, index) => ({
    idstr: `device${index}`,
    kind: lots.oneOf(['simple', 'whole', 'iterable', 'pieces'] as const),
    stateBytes: lots.spread(1, 600),
    loadTimeMs: lots.oneOf([0, 0, 5]),
    writesMemory: lots.chance(0.2),
    faults: { source: [], destination: [] },
    ackAfterMs: lots.chance(0.3) ? lots.spread(1, 1500) : undefined,
  }))
}

function drawWhen(lots: Lots): When {
  if (lots.chance(0.4)) return { afterMs: lots.spread(1, 3000) }
  const delayMs = lots.oneOf([0, 0, 0.1, 1, 10, 100])
  if (lots.chance(0.3)) return { word: lots.oneOf(['ready', 'commit', 'taken'] as const), delayMs }
  const side = lots.oneOf(['source', 'destination'] as const)
  return { side, status: lots.oneOf(STATUSES), delayMs }
}

function drawPause(lots: Lots): Deed {
  return { what: 'pause', forMs: lots.spread(1, 5000) }
}

function drawLimit(lots: Lots): Deed {
  const bytesPerSecond = lots.chance(0.3) ? 0 : lots.spread(500_000, 50_000_000)
  return { what: 'limit', bytesPerSecond, downtimeLimitMs: lots.spread(1, 1000) }
}

function drawCut(lots: Lots, channels: number): Cut {
  return {
    connection: lots.whole(0, lots.oneOf([channels, 3 * channels])),
    direction: lots.chance(0.8) ? 'up' : 'down',
    atByte: lots.spread(1, lots.oneOf([60, 3000])),
    kind: lots.oneOf(['reset', 'reset', 'end', 'stall'] as const),
    stallMs: lots.chance(0.2) ? Number.POSITIVE_INFINITY : lots.spread(1, 6000),
  }
}

function addFault(lots: Lots, scenario: Scenario, channels: number): void {
  const { disturbances, devices, guest } = scenario
  const kind = lots.oneOf(['cut', 'cut', 'cut', 'deed', 'deed', 'deed', 'call', 'native'] as const)
  if (kind === 'cut') {
    scenario.disturbances = {
      ...disturbances,
      cuts: [...disturbances.cuts, drawCut(lots, channels)],
    }
  } else if (kind === 'native') {
    const native = { call: lots.oneOf(NATIVE_CALLS), after: lots.whole(0, 3) }
    scenario.disturbances = { ...disturbances, native: [...disturbances.native, native] }
  } else if (kind === 'deed') {
    scenario.planned.push({ when: drawWhen(lots), deed: drawMischief(lots) })
  } else if (devices.length === 0 || lots.chance(0.4)) {
    guest.faults.push(drawCallFault<VmmCall>(lots, ['stop', 'resume', 'throttle']))
  } else {
    const side = lots.oneOf(['source', 'destination'] as const)
    const calls: DeviceCall[] =
      side === 'source'
        ? ['setup', 'iterate', 'pendingExact', 'completePieces', 'complete']
        : ['load', 'load', 'switchoverAck']
    lots.oneOf(devices).faults[side].push(drawCallFault(lots, calls))
  }
}

function drawCallFault<Call>(lots: Lots, calls: readonly Call[]): CallFault<Call> {
  const how = lots.oneOf(['throw', 'reject', 'hang'] as const)
  return { call: lots.oneOf(calls), after: lots.oneOf([0, 0, 1, 3]), how }
}

function drawMischief(lots: Lots): Deed {
  return lots.oneOf<() => Deed>([
    () => ({ what: 'cancel' }),
    () => ({ what: 'abort-source' }),
    () => ({ what: 'close-destination' }),
    () => ({ what: 'abort-destination' }),
    () => ({
      what: 'break-all',
      kind: lots.oneOf(['reset', 'end', 'stall'] as const),
      stallMs: lots.spread(10, 8000),
    }),
    () => ({ what: 'outage', forMs: lots.chance(0.1) ? 1e9 : lots.spread(10, 8000) }),
    () => ({
      what: 'stranger',
      says: lots.oneOf(['nothing', 'garbage', 'goodbye', 'main', 'channel'] as const),
    }),
  ])()
}
