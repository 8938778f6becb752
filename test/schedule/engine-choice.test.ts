// The choice of an engine: what was asked for wins, registered buffers only where every condition
// holds, and a sentence for whatever was not to be had.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { NativeIoUringAbilities } from '../../src/kit/native.ts'
import {
  checkEngine,
  chooseEngine,
  chooseUnregistered,
  ENGINES,
  type EngineQuestion,
  mayRegister,
  needsProbe,
  type Probed,
  ZERO_COPY,
} from '../../src/schedule/engine-choice.ts'

const ABILITIES = [
  'ioUring',
  'sendZeroCopy',
  'sendmsgZeroCopy',
  'usageReport',
  'fixedSend',
  'fixedSendmsg',
  'cloneBuffers',
] as const

/** Every ability but those named, each with a reason that names it. */
function abilities(...missing: (typeof ABILITIES)[number][]): NativeIoUringAbilities {
  const entries = ABILITIES.map((name) => {
    const there = !missing.includes(name)
    return [name, { there, reason: there ? '' : `no ${name}` }]
  })
  return { ...Object.fromEntries(entries), setupFlags: 0 }
}

const best: EngineQuestion = {
  asked: { engine: 'auto', zeroCopy: 'auto' },
  path: 'network',
  privateCopies: false,
  compressed: false,
  populated: true,
  lockable: true,
  discards: false,
}
const asked = (
  engine: EngineQuestion['asked']['engine'],
  zeroCopy: EngineQuestion['asked']['zeroCopy'] = 'auto',
): EngineQuestion => ({ ...best, asked: { engine, zeroCopy } })

describe('auto', () => {
  it('is io_uring with registered buffers where everything allows it', () => {
    for (const zeroCopy of ['auto', 'on'] as const) {
      expect(chooseEngine(asked('auto', zeroCopy), abilities())).toMatchObject({
        engine: 'io-uring',
        zeroCopy: true,
        registerMemory: true,
      })
    }
  })

  it.each(['loopback', 'unix'] as const)('is splice, without a probe, over %s', (path) => {
    const question = { ...best, path, discards: true, populated: false, lockable: false }
    expect(needsProbe(question)).toBe(false)
    expect(chooseEngine(question, undefined)).toEqual({
      engine: 'splice',
      zeroCopy: true,
      whyPlain: '',
      registerMemory: false,
      reason: expect.stringContaining('on this machine'),
    })
  })

  const hindrances: [Partial<EngineQuestion>, RegExp][] = [
    [
      { path: 'loopback', asked: { engine: 'auto', zeroCopy: 'on' } },
      /no registered buffers: the kernel copies on loopback/,
    ],
    [{ path: 'loopback', asked: { engine: 'auto', zeroCopy: 'off' } }, /zeroCopy is off/],
    [{ path: 'unix', asked: { engine: 'auto', zeroCopy: 'on' } }, /UNIX sockets have no zero-copy/],
    [{ privateCopies: true }, /hash tracker/],
    [{ compressed: true }, /no registered buffers: compressed pages are copies/],
    [{ populated: false }, /not all guest memory is populated/],
    [{ lockable: false }, /RLIMIT_MEMLOCK/],
    [{ discards: true }, /discards: false/],
    [{ asked: { engine: 'auto', zeroCopy: 'off' } }, /zeroCopy is off/],
  ]
  it.each(hindrances)('is sendmsg, without a probe, with %j', (hindrance, sentence) => {
    const question = { ...best, ...hindrance }
    expect(needsProbe(question)).toBe(false)
    const choice = chooseEngine(question, undefined)
    expect(choice).toMatchObject({ engine: 'sendmsg', registerMemory: false })
    expect(choice.reason).toMatch(sentence)
  })

  it.each(['fixedSend', 'fixedSendmsg', 'usageReport'] as const)(
    'is sendmsg where the kernel lacks %s, and says so',
    (missing) => {
      expect(chooseEngine(best, abilities(missing))).toEqual({
        engine: 'sendmsg',
        zeroCopy: true,
        whyPlain: '',
        registerMemory: false,
        reason: `no registered buffers: no ${missing}`,
      })
    },
  )

  it('is sendmsg where the probe failed', () => {
    const choice = chooseEngine(best, 'io_uring is switched off')
    expect(choice).toMatchObject({ engine: 'sendmsg', registerMemory: false, zeroCopy: true })
    expect(choice.reason).toContain('io_uring is switched off')
  })

  it('is sendmsg again where registering failed', () => {
    const choice = chooseEngine(best, abilities())
    expect(chooseUnregistered(best, choice, 'ENOMEM')).toMatchObject({
      engine: 'sendmsg',
      zeroCopy: true,
      registerMemory: false,
      reason: 'no registered buffers: ENOMEM',
    })
  })
})

describe('splice', () => {
  it.each(['network', 'loopback', 'unix'] as const)('is taken when asked for, over %s', (path) => {
    const question = { ...asked('splice'), path }
    expect(needsProbe(question)).toBe(false)
    const choice = chooseEngine(question, undefined)
    expect(choice).toMatchObject({ engine: 'splice', zeroCopy: true, registerMemory: false })
    expect(choice.reason).toBe("asked for by engine: 'splice'")
  })

  it('is sendmsg where what is sent are copies, and says so', () => {
    for (const hindrance of [{ privateCopies: true }, { compressed: true }]) {
      const choice = chooseEngine({ ...asked('splice'), ...hindrance }, undefined)
      expect(choice).toMatchObject({ engine: 'sendmsg', zeroCopy: false })
      expect(choice.reason).toMatch(/^engine: 'splice' was asked for, but .*cop/)
    }
  })

  it('has no thresholds, and never copies', () => {
    for (const zeroCopy of ['on', 'off'] as const) {
      const sentence = `'splice' never copies pages and has no thresholds, got zeroCopy: '${zeroCopy}'`
      expect(() => checkEngine({ engine: 'splice', zeroCopy })).toThrow(sentence)
    }
    expect(checkEngine({ engine: 'splice' })).toEqual({ engine: 'splice', zeroCopy: 'auto' })
  })
})

describe('io-uring', () => {
  it('is taken when asked for, and registers what may be registered', () => {
    expect(chooseEngine(asked('io-uring'), abilities('fixedSendmsg'))).toMatchObject({
      engine: 'io-uring',
      zeroCopy: true,
      registerMemory: true,
      reason: "asked for by engine: 'io-uring'",
    })
  })

  it('registers on loopback only for whoever insists on zero-copy', () => {
    const on = { ...asked('io-uring', 'on'), path: 'loopback' } as const
    expect(chooseEngine(on, abilities()).registerMemory).toBe(true)
    const auto = { ...asked('io-uring'), path: 'loopback' } as const
    const choice = chooseEngine(auto, abilities())
    expect(choice).toMatchObject({ engine: 'io-uring', zeroCopy: true, registerMemory: false })
    expect(choice.reason).toContain('memory is not registered: the kernel copies on loopback')
  })

  it('goes without registered memory, and says why', () => {
    const choice = chooseEngine(asked('io-uring'), abilities('fixedSend'))
    expect(choice).toMatchObject({ engine: 'io-uring', registerMemory: false })
    expect(choice.reason).toContain('memory is not registered: no fixedSend')
    const tried = chooseEngine(asked('io-uring'), abilities())
    const refused = chooseUnregistered(asked('io-uring'), tried, 'ENOMEM')
    expect(refused).toMatchObject({ engine: 'io-uring', registerMemory: false })
    expect(refused.reason).toContain('not registered: ENOMEM')
  })

  it('says nothing about registered memory to whoever wants no zero-copy', () => {
    const { reason } = chooseEngine(asked('io-uring', 'off'), abilities())
    expect(reason).toBe("asked for by engine: 'io-uring'")
  })

  it('compresses what it sends, and sends that plain', () => {
    for (const engine of ['auto', 'sendmsg', 'io-uring'] as const) {
      const choice = chooseEngine({ ...asked(engine), compressed: true }, abilities())
      expect(choice).toMatchObject({ zeroCopy: false, registerMemory: false })
      expect(choice.engine).toBe(engine === 'auto' ? 'sendmsg' : engine)
      expect(choice.whyPlain).toBe('compressed pages are copies')
    }
  })

  it('falls back to sendmsg, and says why', () => {
    for (const probed of [abilities('ioUring'), 'no ioUring']) {
      const choice = chooseEngine(asked('io-uring', 'on'), probed)
      expect(choice).toMatchObject({ engine: 'sendmsg', zeroCopy: true, registerMemory: false })
      expect(choice.reason).toBe("engine: 'io-uring' was asked for, but no ioUring")
    }
  })

  it('sends plain where nobody would notice that the kernel copies, unless told otherwise', () => {
    const choice = chooseEngine(asked('io-uring'), abilities('usageReport'))
    expect(choice).toMatchObject({ zeroCopy: false, registerMemory: false })
    expect(choice.whyPlain).toBe('no usageReport')
    expect(chooseEngine(asked('io-uring', 'on'), abilities('usageReport')).zeroCopy).toBe(true)
  })
})

it('sendmsg is taken when asked for, without a probe', () => {
  expect(needsProbe(asked('sendmsg', 'on'))).toBe(false)
  expect(chooseEngine(asked('sendmsg'), undefined)).toMatchObject({
    engine: 'sendmsg',
    zeroCopy: true,
    registerMemory: false,
    reason: "asked for by engine: 'sendmsg'",
  })
})

const anyQuestion: fc.Arbitrary<EngineQuestion> = fc
  .record({
    asked: fc.record({
      engine: fc.constantFrom(...ENGINES),
      zeroCopy: fc.constantFrom(...ZERO_COPY),
    }),
    path: fc.constantFrom('unix' as const, 'loopback' as const, 'network' as const),
    privateCopies: fc.boolean(),
    compressed: fc.boolean(),
    populated: fc.boolean(),
    lockable: fc.boolean(),
    discards: fc.boolean(),
  })
  // Refused before anybody chooses.
  .filter(({ asked, compressed }) => !(compressed && asked.zeroCopy === 'on'))
  .filter(({ asked }) => asked.engine !== 'splice' || asked.zeroCopy === 'auto')
const anyProbe: fc.Arbitrary<Probed> = fc.oneof(
  fc.subarray([...ABILITIES]).map((missing) => abilities(...missing)),
  fc.constant('the probe failed'),
)

it('holds its conditions for every question and every kernel', () => {
  fc.assert(
    fc.property(anyQuestion, anyProbe, (question, probed) => {
      const choice = chooseEngine(question, needsProbe(question) ? probed : undefined)
      const { engine, zeroCopy } = question.asked
      const can = typeof probed === 'string' ? undefined : probed
      expect(choice.reason).not.toBe('')
      expect(choice.whyPlain === '').toBe(choice.zeroCopy)
      if (engine === 'sendmsg') expect(choice.engine).toBe('sendmsg')
      if (choice.engine === 'io-uring') expect(can?.ioUring.there || engine === 'auto').toBe(true)
      if (engine === 'io-uring' && can?.ioUring.there) expect(choice.engine).toBe('io-uring')
      if (engine === 'auto') expect(choice.engine === 'io-uring').toBe(choice.registerMemory)
      if (choice.engine === 'splice') expect(choice.zeroCopy).toBe(true)
      if (zeroCopy === 'off') expect(choice.zeroCopy).toBe(false)
      if (zeroCopy === 'on') expect(choice.zeroCopy).toBe(true)
      const { path, privateCopies, compressed } = question
      if (zeroCopy === 'auto' && (privateCopies || compressed)) expect(choice.zeroCopy).toBe(false)
      if (zeroCopy === 'auto' && path === 'unix') {
        expect(choice.zeroCopy).toBe(choice.engine === 'splice')
      }
      if (choice.registerMemory) {
        const { populated, lockable, discards } = question
        expect({ populated, lockable, discards, privateCopies, compressed }).toEqual({
          populated: true,
          lockable: true,
          discards: false,
          privateCopies: false,
          compressed: false,
        })
        expect(choice.zeroCopy && path !== 'unix' && can?.fixedSend.there).toBe(true)
        // Whoever asked whether to look at the memory would have looked.
        expect(mayRegister(question)).toBe(true)
      }
      // Memory is walked only where that could matter.
      if (!mayRegister({ ...question, populated: true })) expect(choice.registerMemory).toBe(false)
    }),
  )
})
