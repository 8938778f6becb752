// Who the peer is: machine names, dialects, and our own entries in the capability list.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  DialectDetector,
  dialectOfMachine,
  formatOwnCapabilities,
  isOwnMachine,
  OWN_MACHINE_NAME,
  parseOwnCapabilities,
} from '../../src/wire/dialect.ts'

const TOKEN = '0'.repeat(32)

describe('the dialect', () => {
  it.each([
    ['pc-q35-7.2', 'per-section'],
    ['pc-i440fx-8.0', 'per-section'],
    ['pc-q35-2.12', 'per-section'],
    ['pc-q35-8.1', 'per-round'],
    ['virt-10.0', 'per-round'],
    [OWN_MACHINE_NAME, 'per-round'],
    ['q35', undefined],
    ['microvm', undefined],
    ['pc-q35-rhel9.2.0', undefined],
    ['pc-q35-7.2-custom', undefined],
  ])('of machine %s is %s', (machine, dialect) => {
    expect(dialectOfMachine(machine)).toBe(dialect)
  })

  it('is found from the first word that can tell, and says which words are sync points', () => {
    const perRound = new DialectDetector()
    expect(perRound.dialect).toBeUndefined()
    expect(
      ['ram-flush', 'ram-eos', 'ram-flush'].map((w) => perRound.observe(w as 'ram-eos')),
    ).toEqual([true, false, true])
    expect(perRound.dialect).toBe('per-round')
    const perSection = new DialectDetector()
    expect(perSection.observe('ram-eos')).toBe(true)
    expect(perSection.observe('ram-flush')).toBe(false)
    expect(perSection.dialect).toBe('per-section')
  })
})

describe('our own ends', () => {
  it('are told by the machine name', () => {
    expect(isOwnMachine(OWN_MACHINE_NAME)).toBe(true)
    expect(isOwnMachine('multifd/99')).toBe(true)
    expect(isOwnMachine('pc-q35-9.1')).toBe(false)
  })

  it('understand the capabilities they write', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 255 }),
        fc.boolean(),
        fc.constantFrom('none' as const, 'zlib' as const, 'zstd' as const),
        fc.option(
          fc
            .uint8Array({ minLength: 16, maxLength: 16 })
            .map((b) => Buffer.from(b).toString('hex')),
        ),
        fc.boolean(),
        fc.boolean(),
        (channels, commit, compression, resume, switchoverAck, largePackets) => {
          const value = {
            ...{ channels, commit, compression },
            ...(resume === null ? {} : { resume }),
            ...(switchoverAck ? { switchoverAck } : {}),
            ...(largePackets ? { largePackets } : {}),
          }
          const list = formatOwnCapabilities(value)
          expect(parseOwnCapabilities(list)).toEqual({ ok: true, value })
          expect(parseOwnCapabilities(list.toReversed())).toEqual({ ok: true, value })
          expect(list.includes(`resume=${resume}`)).toBe(resume !== null)
          expect(list.includes('switchover-ack')).toBe(switchoverAck)
          expect(list.includes('large-packets')).toBe(largePackets)
          const named = list.filter((entry) => entry.startsWith('multifd-compression='))
          expect(named).toEqual(
            compression === 'none' ? [] : [`multifd-compression=${compression}`],
          )
        },
      ),
    )
  })

  it.each<[string[], RegExp]>([
    [[], /no multifd-channels=N/],
    [['commit'], /no multifd-channels=N/],
    [['multifd-channels=0'], /"0" channels, expected 1 .. 255/],
    [['multifd-channels=256'], /"256" channels/],
    [['multifd-channels=4x'], /"4x" channels/],
    [['multifd-channels=04'], /"04" channels/],
    [['multifd-channels=4', 'multifd-channels=5'], /"multifd-channels=5".*twice/],
    [['multifd-channels=4', 'commit', 'commit'], /"commit".*twice/],
    [['multifd-channels=4', 'multifd-compression=qpl'], /with "qpl", expected none, zlib, zstd/],
    [['multifd-channels=4', 'multifd-compression='], /with "", expected none, zlib, zstd/],
    [
      ['multifd-channels=4', 'multifd-compression=zlib', 'multifd-compression=zstd'],
      /"multifd-compression=zstd".*twice/,
    ],
    [['multifd-channels=4', 'resume='], /with "", expected 32/],
    [['multifd-channels=4', 'resuming='], /with "", expected 32/],
    [['multifd-channels=4', 'resuming'], /asks for "resuming", which/],
    [['multifd-channels=4', `resume=${'a'.repeat(31)}`], /expected 32 lower-case/],
    [['multifd-channels=4', `resume=${'a'.repeat(33)}`], /expected 32 lower-case/],
    [['multifd-channels=4', `resume=${'A'.repeat(32)}`], /expected 32 lower-case/],
    [['multifd-channels=4', `resume=${TOKEN}`, `resume=${TOKEN}`], /"resume=0{32}".*twice/],
    [['multifd-channels=4', 'switchover-ack', 'switchover-ack'], /"switchover-ack".*twice/],
    [['multifd-channels=4', 'postcopy-ram'], /"postcopy-ram", which this version does not know/],
  ])('refuse %j', (list, sentence) => {
    const result = parseOwnCapabilities(list)
    expect(result.ok ? 'accepted' : result.error.message).toMatch(sentence)
  })

  it('cannot announce a number of channels that does not exist', () => {
    for (const channels of [0, 256, 1.5, Number.NaN]) {
      const own = { channels, commit: true, compression: 'none' } as const
      expect(() => formatOwnCapabilities(own)).toThrow(RangeError)
    }
  })

  it('cannot announce a token that is none', () => {
    for (const resume of ['', TOKEN.slice(1), `${TOKEN}0`, 'g'.repeat(32), `${TOKEN}\n`]) {
      const own = { channels: 1, commit: true, compression: 'none', resume } as const
      expect(() => formatOwnCapabilities(own)).toThrow(/32 lower-case/)
    }
  })
})
