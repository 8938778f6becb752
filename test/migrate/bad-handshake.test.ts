// Who connects to a destination and is not the source that was expected: each is refused with a
// sentence that says what came and what was expected, in a stated time, and leaves nothing behind.

import { afterAll, beforeEach, describe, expect, it } from 'vitest'
import { concatBytes } from '../../src/wire/bytes.ts'
import { encodeHeader } from '../../src/wire/configuration.ts'
import { loadStream, vectorNamed } from '../wire/vectors.ts'
import { GuardedGuest } from './guarded-guest.ts'
import { type Attempt, attempt, census, expectRefusal } from './incoming-attempt.ts'
import { introduction, opening, patched, ramStart } from './own-stream-parts.ts'

const guest = new GuardedGuest()
const before = census()
const uuid = Uint8Array.from({ length: 16 }, (_, i) => i + 1)
const HANDSHAKE = 'ERR_MULTIFD_HANDSHAKE'
const TIMEOUT = 'ERR_MULTIFD_TIMEOUT'

beforeEach(() => guest.reset())
afterAll(() => guest.memory.close())

interface Case {
  name: string
  code: string
  sentence: RegExp[]
  play: Attempt['play']
  options?: Attempt['options']
}

function refuses({ name, code, sentence, play, options = {} }: Case): void {
  it(name, async () => {
    const outcome = await attempt({ guest, play, options })
    expectRefusal(outcome, code, ...sentence)
    guest.expectNothingLoaded()
    expect(census()).toEqual(before)
  })
}

const text = (words: string): Uint8Array => new TextEncoder().encode(words)

describe('a destination refuses a stranger', () => {
  const strangers: [string, Uint8Array, RegExp[]][] = [
    ['an HTTP request', text('GET / HTTP/1.1\r\nHost: here\r\n\r\n'), [/47 45 54 20 \("GET "\)/]],
    ['a TLS ClientHello', Uint8Array.of(22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3), [/16 03 01 02/]],
    ['an SSH banner', text('SSH-2.0-OpenSSH_9.2\r\n'), [/"SSH-"/]],
    [
      'the multifd magic in the wrong byte order',
      Uint8Array.of(0x44, 0x33, 0x22, 0x11),
      [/44 33 22/],
    ],
  ]
  for (const [name, bytes, sentence] of strangers) {
    it(`${name}, before it touches the guest`, async () => {
      const outcome = await attempt({ guest, play: (script) => script.connect(bytes) })
      const expected = [
        /51 45 56 4d \("QEVM"\) or a multifd channel 11 22 33 44/,
        /not a migration/,
      ]
      expectRefusal(outcome, HANDSHAKE, ...sentence, ...expected)
      guest.expectUntouched()
      expect(census()).toEqual(before)
    })
  }

  refuses({
    name: 'that connects and leaves',
    code: HANDSHAKE,
    sentence: [/closed before it said what it is/],
    play: async (script) => (await script.connect()).end(),
  })
})

describe('a destination refuses a multifd channel', () => {
  const main = opening({ channels: 2 })
  const refusesIntroduction = (name: string, bytes: Uint8Array, sentence: RegExp): void => {
    refuses({
      name,
      code: HANDSHAKE,
      sentence: [sentence],
      play: (script) => Promise.all([script.connect(main), script.connect(bytes)]),
    })
  }
  refusesIntroduction(
    'of another version',
    patched(introduction(0), [4, 2]),
    /version 2, expected 1/,
  )
  refusesIntroduction('number N', introduction(2), /channel 2, expected 0 to 1/)
  refusesIntroduction('above N', introduction(254), /channel 254, expected 0 to 1/)
  refusesIntroduction(
    'number 255, which never exists',
    patched(introduction(0), [24, 0xff00_0000]),
    /channel 255, expected 0 to 254/,
  )
  refusesIntroduction(
    'with another UUID',
    introduction(0, uuid),
    /channel 0 brings the UUID 01020304-.*, expected 00000000-/,
  )
  refuses({
    name: 'that is there already',
    code: HANDSHAKE,
    sentence: [/channel 1, which is connected already/],
    play: async (script) => {
      await script.connect(main)
      await script.connect(introduction(1))
      await script.connect(introduction(1))
    },
  })
})

describe('a destination refuses a main channel', () => {
  const refusesMain = (
    name: string,
    code: string,
    bytes: Uint8Array,
    ...sentence: RegExp[]
  ): void => refuses({ name, code, sentence, play: (script) => script.connect(bytes) })

  refusesMain(
    'of another version',
    HANDSHAKE,
    patched(opening({}), [4, 2]),
    /version 2, expected 3/,
  )
  refusesMain(
    'with another UUID',
    HANDSHAKE,
    opening({ uuid }),
    /the main channel brings the UUID 01020304-.*, expected 00000000-/,
  )
  refusesMain(
    'of another version of ours',
    'ERR_MULTIFD_UNSUPPORTED',
    opening({ machineName: 'multifd/2' }),
    /"multifd\/2", this end speaks multifd\/1/,
  )
  refusesMain(
    'without a number of channels',
    HANDSHAKE,
    opening({ capabilities: ['commit'] }),
    /announces no multifd-channels=N/,
  )
  refusesMain(
    'with 256 channels',
    HANDSHAKE,
    opening({ capabilities: ['multifd-channels=256', 'commit'] }),
    /announces "256" channels, expected 1 .. 255/,
  )
  refusesMain(
    'that will not commit',
    HANDSHAKE,
    opening({ capabilities: ['multifd-channels=1'] }),
    /does not announce .*commit/,
  )
  refusesMain(
    'that asks for what nobody knows',
    HANDSHAKE,
    opening({ capabilities: ['multifd-channels=1', 'commit', 'postcopy-ram'] }),
    /asks for "postcopy-ram"/,
  )
  refusesMain(
    'that compresses with what nobody knows',
    HANDSHAKE,
    opening({ capabilities: ['multifd-channels=1', 'commit', 'multifd-compression=qatzip'] }),
    /compresses with "qatzip", expected none, zlib, zstd/,
  )
  refusesMain(
    'without a configuration',
    'ERR_MULTIFD_PROTOCOL',
    concatBytes(encodeHeader(), Uint8Array.of(1, 0, 0, 0, 1)),
    /got section type 0x01, expected the configuration section/,
  )
  for (const name of ['q72-legacy-none', 'q102-modern-none']) {
    const vector = vectorNamed(name)
    refuses({
      name: `of a real QEMU (${name})`,
      code: 'ERR_MULTIFD_UNSUPPORTED',
      sentence: [/is a QEMU machine "pc-.*", expected a MigrationSource/],
      play: (script) =>
        Promise.all(
          [vector.main, ...vector.multifd].map(({ file }) => script.connect(loadStream(file))),
        ).catch(() => {}), // refused before the last one connects
    })
  }
})

describe('a destination waits no longer than it was told', () => {
  const options = { handshakeTimeoutMs: 60 }
  const waits = (name: string, sentence: RegExp, play: Attempt['play']): void =>
    refuses({ name, code: TIMEOUT, sentence: [sentence, /60 ms/], play, options })

  waits('for a peer that connects and stays silent', /did not say within 60 ms/, (script) =>
    script.connect(),
  )
  waits('for the rest of an introduction', /did not say within 60 ms/, (script) =>
    script.connect(introduction(0).subarray(0, 63)),
  )
  waits('for the rest of the configuration', /0 of \? multifd channels and the main/, (script) =>
    script.connect(opening({}).subarray(0, 20)),
  )
  waits(
    'for a channel that never comes',
    /1 of 2 multifd channels and the main/,
    async (script) => {
      await script.connect(opening({ channels: 2 }), ramStart())
      await script.connect(introduction(0))
    },
  )
  waits('for a main channel that never comes', /no main channel/, (script) =>
    script.connect(introduction(0)),
  )
  refuses({
    name: 'for a source that is silent once all are there',
    code: TIMEOUT,
    sentence: [/silent for 60 ms \(peerTimeoutMs\)/],
    options: { peerTimeoutMs: 60 },
    play: async (script) => {
      await script.connect(opening({}))
      await script.connect(introduction(0))
    },
  })
})

describe('two sources at one destination', () => {
  refuses({
    name: 'are an error, whoever comes second',
    code: HANDSHAKE,
    sentence: [/a second main channel came.*two sources/],
    play: async (script) => {
      await script.connect(opening({}))
      await script.connect(opening({}))
    },
  })
})
