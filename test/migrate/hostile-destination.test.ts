// A real MigrationSource and a destination that answers wrongly, early, too late or not at all: the
// source says what came and what was expected, its guest runs on, and nothing is left behind.

import { createServer, type Server, type Socket } from 'node:net'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { MultifdError } from '../../src/kit/errors.ts'
import { native } from '../../src/kit/native.ts'
import type { MigrationSourceOptions } from '../../src/migrate/source-options.ts'
import { type Migration, MigrationSource } from '../../src/source.ts'
import { MIG_CMD_OPEN_RETURN_PATH, MIG_CMD_SWITCHOVER_START } from '../../src/wire/constants.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import { encodePong, encodeShut, encodeSwitchoverAck } from '../../src/wire/return-path.ts'

const memory = GuestMemory.openMemfd('guest.ram', 64 * 1024)
memory.view('guest.ram').fill(7, 4096, 8192)
const before = native().census()
const PROTOCOL = 'ERR_MULTIFD_PROTOCOL'
const PEER_CLOSED = 'ERR_MULTIFD_PEER_CLOSED'

/** A destination whose behaviour is a function from what the source said to what is done to it. */
class FakeDestination {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #onEvent: (event: MainStreamEvent, main: Socket, fake: FakeDestination) => void

  constructor(onEvent: (event: MainStreamEvent, main: Socket, fake: FakeDestination) => void) {
    this.#onEvent = onEvent
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accepted(socket))
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    return `tcp:127.0.0.1:${(this.#server.address() as { port: number }).port}`
  }

  /** Everything breaks at once. */
  dropAll(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy()
  }

  dropChannels(main: Socket): void {
    for (const socket of this.#sockets) if (socket !== main) socket.resetAndDestroy()
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  /** What opens with QEVM is read as the main stream; everything else is thrown away. */
  #accepted(socket: Socket): void {
    this.#sockets.add(socket)
    socket.on('error', () => {})
    let reader: MainStreamReader | undefined
    socket.once('data', (first: Buffer) => {
      if (first[0] !== 0x51) return
      reader = new MainStreamReader()
    })
    socket.on('data', (bytes: Buffer) => {
      for (const event of reader?.push(bytes).events ?? []) this.#onEvent(event, socket, this)
    })
  }
}

let fake: FakeDestination | undefined
/** 1 for a guest that runs; every stop and resume counts. */
let guest: { running: number; stops: number }

beforeEach(() => {
  guest = { running: 1, stops: 0 }
})
afterEach(async () => {
  await fake?.close()
  fake = undefined
  expect(native().census()).toEqual(before)
})
afterAll(() => memory.close())

async function migrateTo(
  onEvent: (event: MainStreamEvent, main: Socket, fake: FakeDestination) => void,
  options: Partial<MigrationSourceOptions> = {},
): Promise<{ migration: Migration; error: MultifdError }> {
  fake = new FakeDestination(onEvent)
  const source = new MigrationSource({
    memory,
    vmm: {
      stop: () => {
        guest.running -= 1
        guest.stops += 1
      },
      resume: () => {
        guest.running += 1
      },
    },
    ...options,
  })
  const migration = source.migrate(await fake.listen())
  const error = await migration.result.then(
    () => new Error('the migration completed'),
    (reason: unknown) => reason,
  )
  if (!(error instanceof MultifdError)) throw error
  return { migration, error }
}

/** Answers PINGs, and whatever else is asked for. */
function answering(
  also: (event: MainStreamEvent, main: Socket, fake: FakeDestination) => void,
): (event: MainStreamEvent, main: Socket, fake: FakeDestination) => void {
  return (event, main, self) => {
    if (event.kind === 'command' && event.data.length === 4) {
      main.write(encodePong(new DataView(event.data.buffer, event.data.byteOffset).getUint32(0)))
    }
    if (event.kind === 'command' && event.command === MIG_CMD_OPEN_RETURN_PATH) {
      main.write(encodeSwitchoverAck())
    }
    also(event, main, self)
  }
}

function expectRunsOn({ migration, error }: { migration: Migration; error: MultifdError }): void {
  expect(guest.running, error.message).toBe(1)
  expect(migration.status).toBe('failed')
}

const text = (words: string): Uint8Array => new TextEncoder().encode(words)
const atHeader =
  (bytes: Uint8Array) =>
  (event: MainStreamEvent, main: Socket): void => {
    if (event.kind === 'header') main.write(bytes)
  }

describe('a destination that answers', () => {
  const answers: [string, string, Uint8Array, RegExp][] = [
    ['in HTTP', PROTOCOL, text('HTTP/1.1 400 Bad Request\r\n\r\n'), /"HTTP" \(48 54 54 50\)/],
    ['in noise', PROTOCOL, Uint8Array.of(0xde, 0xad, 0xbe, 0xef), /de ad be ef .*expected PONG/],
    [
      'with a SHUT of no size',
      PROTOCOL,
      Uint8Array.of(0, 1, 0, 0),
      /answer 1 has 0 bytes.*expected 4/,
    ],
    ['with a PONG nobody asked for', PROTOCOL, encodePong(7), /PONG 7 came, expected 0/],
    ['ready at once', PROTOCOL, encodeShut(0), /ready before it can have everything/],
    ['that it failed', PEER_CLOSED, encodeShut(1), /failed there \(SHUT 1\)/],
    [
      'as post-copy',
      'ERR_MULTIFD_UNSUPPORTED',
      Uint8Array.of(0, 4, 0, 12, ...new Array<number>(12).fill(0)),
      /post-copy/,
    ],
  ]
  it.each(answers)('%s', async (_name, code, bytes, sentence) => {
    const ended = await migrateTo(atHeader(bytes))
    expect(ended.error).toMatchObject({ code, message: expect.stringMatching(sentence) })
    expectRunsOn(ended)
  })

  it('with the right PONG twice', async () => {
    const twice = answering((event, main) => {
      if (event.kind === 'command' && event.data.length === 4) main.write(encodePong(0))
    })
    const ended = await migrateTo(twice)
    expect(ended.error).toMatchObject({
      code: PROTOCOL,
      message: expect.stringMatching(/PONG 0 came, expected 1/),
    })
    expectRunsOn(ended)
  })

  it('ready when the guest has only just stopped', async () => {
    const early = answering((event, main) => {
      if (event.kind !== 'command' || event.command !== MIG_CMD_SWITCHOVER_START) return
      main.write(encodeShut(0))
    })
    const ended = await migrateTo(early)
    expect(ended.error).toMatchObject({ code: PROTOCOL, message: expect.stringMatching(/ready/) })
    expectRunsOn(ended)
    expect(guest.stops).toBe(1)
  })

  it('that it failed when everything was sent', async () => {
    const late = answering((event, main) => {
      if (event.kind === 'vmdescription') main.write(encodeShut(2))
    })
    const ended = await migrateTo(late)
    expect(ended.error).toMatchObject({
      code: PEER_CLOSED,
      message: expect.stringMatching(/SHUT 2/),
    })
    expectRunsOn(ended)
  })

  it('half an answer, and leaves', async () => {
    const ended = await migrateTo((event, main) => {
      if (event.kind === 'header') main.end(encodePong(0).subarray(0, 5))
    })
    expect(ended.error).toMatchObject({
      code: PEER_CLOSED,
      message: expect.stringMatching(/ended at byte 5, inside an answer/),
    })
    expectRunsOn(ended)
  })
})

describe('a destination that leaves', () => {
  const moments: [string, MainStreamEvent['kind']][] = [
    ['at the header', 'header'],
    ['at the configuration', 'configuration'],
    ['at the block list', 'ram-mem-size'],
    ['at the first sync point', 'ram-flush'],
    ['when a section ends', 'section-end'],
    ['at EOF', 'eof'],
    ['when it should say ready', 'vmdescription'],
  ]
  for (const [name, kind] of moments) {
    it(`${name}: an end, a reset, or the channels alone`, async () => {
      const ways: ((main: Socket, self: FakeDestination) => void)[] = [
        (main) => main.end(),
        (_main, self) => self.dropAll(),
        (main, self) => {
          self.dropChannels(main)
          main.end()
        },
      ]
      for (const leave of ways) {
        guest = { running: 1, stops: 0 }
        const ended = await migrateTo(
          answering((event, main, self) => {
            if (event.kind === kind) leave(main, self)
          }),
        )
        // A channel that is refused while it connects is a failed system call.
        expect([PEER_CLOSED, 'ERR_MULTIFD_CHANNEL']).toContain(ended.error.code)
        expectRunsOn(ended)
        await fake?.close()
      }
    })
  }

  it('after the commit, without a word: the source must not go on by itself', async () => {
    const { migration, error } = await migrateTo(
      answering((event, main) => {
        if (event.kind === 'vmdescription') main.write(encodeShut(0))
        if (event.kind === 'command' && event.command === 0x4d01) main.resetAndDestroy()
      }),
    )
    expect(error.code).toBe('ERR_MULTIFD_STATE')
    expect(error.message).toMatch(/handed over, but the destination did not confirm/)
    expect(migration.status).toBe('unknown')
    expect(guest.running).toBe(0)
  })
})

describe('a destination that is silent', () => {
  const options = { peerTimeoutMs: 60, connectTimeoutMs: 5000 }
  const silences: [string, ReturnType<typeof answering>][] = [
    ['from the start', () => {}],
    ['when it should say ready', answering(() => {})],
  ]
  it.each(silences)('%s has failed when its time is over', async (_name, behave) => {
    const ended = await migrateTo(behave, options)
    expect(ended.error).toMatchObject({
      code: 'ERR_MULTIFD_TIMEOUT',
      message: expect.stringMatching(/silent for 60 ms \(peerTimeoutMs\)/),
    })
    expectRunsOn(ended)
  })

  it('after the commit leaves the guest where its operator must look', async () => {
    const { migration, error } = await migrateTo(
      answering((event, main) => {
        if (event.kind === 'vmdescription') main.write(encodeShut(0))
      }),
      options,
    )
    expect(error).toMatchObject({
      code: 'ERR_MULTIFD_STATE',
      cause: { code: 'ERR_MULTIFD_TIMEOUT' },
    })
    expect(migration.status).toBe('unknown')
    expect(guest.running).toBe(0)
  })
})

describe('no destination at all', () => {
  it('is an error that names the address', async () => {
    const closed = createServer()
    await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve))
    const { port } = closed.address() as { port: number }
    await new Promise((resolve) => closed.close(resolve))
    const source = new MigrationSource({ memory, vmm: { stop: () => {}, resume: () => {} } })
    await expect(source.migrate(`tcp:127.0.0.1:${port}`).result).rejects.toMatchObject({
      code: 'ERR_MULTIFD_CHANNEL',
      errno: 'ECONNREFUSED',
      message: expect.stringMatching(new RegExp(`tcp:127.0.0.1:${port} .*listening there`)),
    })
    await expect(source.migrate('unix:/nowhere/at/all').result).rejects.toMatchObject({
      code: 'ERR_MULTIFD_CHANNEL',
      errno: 'ENOENT',
    })
  })
})
