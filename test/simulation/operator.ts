// What an operator, a network or a stranger does to a simulated migration, as it was planned.

import { CHANNEL_MARK, encodeIntroduction, MAIN_MARK } from './packets.ts'
import type { Deed } from './scenario.ts'
import type { Simulation } from './simulation.ts'

export function carryOut(simulation: Simulation, deed: Deed): void {
  const { destination, migration, world } = simulation
  world.note(JSON.stringify(deed))
  switch (deed.what) {
    case 'cancel':
      migration?.cancel()
      return
    case 'abort-source':
      simulation.sourceAbort.abort()
      return
    case 'close-destination':
      void destination?.close()
      return
    case 'abort-destination':
      simulation.destinationAbort.abort()
      return
    case 'pause':
      migration?.pause()
      world.clock.after(deed.forMs, () => migration?.continue())
      return
    case 'limit':
      migration?.setParameters({
        maxBandwidthBytesPerSecond: deed.bytesPerSecond,
        downtimeLimitMs: deed.downtimeLimitMs,
      })
      return
    case 'break-all':
      world.network.sufferAll(deed.kind, deed.stallMs)
      return
    case 'outage':
      world.network.outUntilMs = Math.max(world.network.outUntilMs, world.clock.nowMs + deed.forMs)
      return
    case 'stranger':
      comeAsStranger(simulation, deed.says)
  }
}

function comeAsStranger(
  { world }: Simulation,
  says: Extract<Deed, { what: 'stranger' }>['says'],
): void {
  world.network.connect('/simulated', (end) => {
    if (end === undefined) return
    if (says === 'garbage') end.write(new Uint8Array(40).fill(CHANNEL_MARK + 1))
    if (says === 'main') end.write(Uint8Array.from([MAIN_MARK, 0x45, 0x56, 0x4d, 0, 0, 0, 3, 9]))
    if (says === 'channel') end.write(encodeIntroduction(0, new Uint8Array(16)))
    if (says === 'goodbye') end.finish()
    end.changed = () => {
      if (end.broken !== undefined || end.ended) end.close()
    }
    world.clock.after(20_000, () => end.close())
  })
}
