// A relay whose worker thread is ended in the middle, and many relays in a row: nothing is left.

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { beforeEach, describe, expect, it } from 'vitest'
import { native } from '../../src/kit/native.ts'
import { QemuPeer } from '../snapshot/qemu-peer.ts'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'
import { expectNothingLeft, held } from '../support/resources.ts'
import { type DestinationBehaviour, RecordingDestination } from './recording-destination.ts'
import { expectSourceResumes, Relaying, recordedSource, repeatPackets } from './relaying.ts'

const NAME = 'q72-legacy-none'

let before: Record<string, number>
beforeEach(() => {
  before = native().census()
  return () => expect(native().census()).toEqual(before)
})

describe('a worker that is terminated', () => {
  it.each<[string, DestinationBehaviour]>([
    ['parked at a sync point', {}],
    ['blocked by a destination that does not read', { readsChannels: false }],
  ])('with its channels %s lets go of everything', async (_what, behaviour) => {
    await using destination = await RecordingDestination.listen(behaviour)
    const worker = new Worker(new URL('./relay-worker.ts', import.meta.url), {
      workerData: { to: destination.uri },
      execArgv: TYPESCRIPT_ARGUMENTS,
    })
    const lines: string[] = []
    worker.on('message', (line: string) => lines.push(line))
    const says = async (line: RegExp): Promise<string> => {
      for (;;) {
        const found = lines.find((said) => line.test(said))
        if (found !== undefined) return found
        await once(worker, 'message')
      }
    }
    await using source = new QemuPeer(await says(/^tcp:/))
    const { main, channels } = recordedSource(NAME)
    const half = main.subarray(0, main.length / 2)
    // Without readers more than any socket's buffers take; nobody reads what is behind a SYNC.
    const many = channels.map((bytes) => repeatPackets(bytes, 24 << 20))
    const connection = await source.play({ main: half, channels: many })
    await says(/^active$/)
    await says(/^standing$/)
    await worker.terminate()
    await expectSourceResumes(connection)
    await destination.mainLeft()
  })
})

describe('twenty relays in a row', () => {
  it('leave nothing, failed ones among them', async () => {
    const pass = async (fails: boolean): Promise<void> => {
      await using relaying = await Relaying.begin()
      const { main, channels } = recordedSource(NAME)
      await relaying.source.play({ main: fails ? main.subarray(0, 4000) : main, channels })
      if (fails) {
        await relaying.reaches('active')
        relaying.source.kill()
      }
      const end = await relaying.relay.result.then(
        ({ status }) => status,
        () => 'failed',
      )
      expect(end).toBe(fails ? 'failed' : 'completed')
    }
    await pass(true)
    const first = held()
    for (let count = 0; count < 20; count += 1) await pass(count % 4 === 3)
    expectNothingLeft(first)
  })
})
