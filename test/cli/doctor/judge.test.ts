// Judgement of machines that are made up: what is lacking, what it means, what to do.

import { describe, expect, it } from 'vitest'
import type { Facts } from '../../../src/cli/doctor/facts.ts'
import type { Finding } from '../../../src/cli/doctor/finding.ts'
import { judge } from '../../../src/cli/doctor/judge.ts'
import { ALL_ABILITIES, abilitiesWithout, GOOD_MACHINE, path } from './made-up-facts.ts'

/** What is judged differently from a good machine, by id. */
function lacking(changes: Partial<Facts>): Record<string, Finding> {
  const { findings } = judge({ ...GOOD_MACHINE, ...changes })
  return Object.fromEntries(
    findings.filter(({ status }) => status !== 'ok').map((finding) => [finding.id, finding]),
  )
}

/** The only thing that is lacking. */
function only(changes: Partial<Facts>): Finding {
  const found = Object.values(lacking(changes))
  expect(found.map(({ id }) => id)).toHaveLength(1)
  return found[0] as Finding
}

describe('a good machine', () => {
  const diagnosis = judge(GOOD_MACHINE)

  it('has nothing to complain of, and every finding says what it means', () => {
    expect(lacking({})).toEqual({})
    expect(diagnosis.canMigrate).toBe(true)
    for (const { id, meaning, value, fix } of diagnosis.findings) {
      expect(meaning, id).toMatch(/^([A-Z0-9]|zeroCopy).*\.$/)
      expect(value, id).not.toBe('')
      expect(fix, id).toBeUndefined()
    }
    const ids = diagnosis.findings.map(({ id }) => id)
    expect(new Set(ids).size).toBe(ids.length)
  })

  it('is told what a migration from it will use', () => {
    expect(diagnosis.summary).toBe(
      'A migration from here will track writes with userfaultfd, send with sendmsg, and use ' +
        'zero-copy on eth0, not on lo. ' +
        'With discards: false and all memory of the guest populated, none of it in huge pages: ' +
        'io-uring, registered memory.',
    )
  })
})

describe('what no migration can do without', () => {
  it.each<[string, Partial<Facts>, string]>([
    ['another system', { platform: 'darwin', addonFailure: 'it is no Linux' }, 'kernel'],
    ['another processor', { architecture: 'riscv64' }, 'kernel'],
    ['an old Node', { node: '20.16.1' }, 'node'],
    ['a much older Node', { node: '18.20.0' }, 'node'],
    ['no addon', { addonFailure: 'it was built for another Node' }, 'addon'],
  ])('%s is missing, with a way out', (_what, changes, id) => {
    const diagnosis = judge({ ...GOOD_MACHINE, ...changes })
    expect(diagnosis.canMigrate).toBe(false)
    const finding = diagnosis.findings.find((each) => each.id === id)
    expect(finding).toMatchObject({ status: 'missing', required: true })
    expect(finding?.fix).toBeTruthy()
    expect(diagnosis.summary).toContain('No migration works here')
    expect(diagnosis.summary).toContain(finding?.title)
  })

  it('a Node that is new enough is no obstacle, whatever its digits', () => {
    for (const node of ['20.17.0', '20.100.0', '24.0.0', '100.0.0'])
      expect(lacking({ node })).toEqual({})
  })

  it('without the addon, what was not tried is not judged', () => {
    const untried = { ioUring: undefined, tracking: undefined, paths: [] }
    const found = lacking({ addonFailure: 'it is not there', ...untried })
    expect(Object.keys(found)).toEqual(['addon'])
    expect(found.addon?.meaning).toContain('it is not there')
  })
})

describe('a kernel that lacks something', () => {
  it('old: hashes instead of userfaultfd, no zero-copy by io_uring; a migration works', () => {
    const old = {
      kernel: '5.10.0',
      tracking: { there: false, reason: 'this kernel cannot report written pages' },
      ioUring: abilitiesWithout('this kernel has no zero-copy sends', ['ioUring']),
    }
    const { canMigrate, summary } = judge({ ...GOOD_MACHINE, ...old })
    expect(canMigrate).toBe(true)
    expect(summary).toContain('track writes by hashes, send with sendmsg, and copy all pages')
    const found = lacking(old)
    expect(found['dirty-tracking']).toMatchObject({ status: 'missing' })
    expect(found['dirty-tracking']?.meaning).toContain('This kernel cannot report written pages.')
    expect(found['dirty-tracking']?.fix).toContain('Linux 6.7')
    expect(found['io-uring-zero-copy']).toMatchObject({
      status: 'missing',
      fix: expect.any(String),
    })
    expect(found['io-uring-registered-memory']?.fix).toContain('6.15')
  })

  it('tells the version for arm64, where tracking came later', () => {
    const tracking = { there: false, reason: 'it is too old' }
    expect(only({ tracking, architecture: 'arm64' }).fix).toContain('6.10')
  })

  it.each([
    [2, 'kernel.io_uring_disabled=0'],
    [1, 'kernel.io_uring_group'],
    [0, 'seccomp profile'],
    [undefined, 'seccomp profile'],
  ])('io_uring refused while io_uring_disabled is %s: the fix fits', (ioUringDisabled, fix) => {
    const finding = only({ ioUring: abilitiesWithout('it is refused here'), ioUringDisabled })
    expect(finding).toMatchObject({ id: 'io-uring', status: 'missing', title: 'io_uring' })
    expect(finding.meaning).toContain('It is refused here.')
    expect(finding.fix).toContain(fix)
  })

  it('registered buffers that rings cannot share are a warning', () => {
    const ioUring = {
      ...ALL_ABILITIES,
      cloneBuffers: { there: false, reason: 'this kernel cannot share them' },
    }
    expect(only({ ioUring })).toMatchObject({ id: 'io-uring-registered-memory', status: 'warning' })
  })
})

describe('zero-copy on an interface', () => {
  it.each<[string, ReturnType<typeof path>, string]>([
    ['copied by a NIC: its offloads', path('eth0', 'copied'), 'ethtool -K eth0 sg on'],
    ['copied by a veth', path('veth0', 'copied', { hardware: false }), 'real NIC'],
    ['copied, with tcpdump running', path('eth0', 'copied', { packetSockets: 1 }), 'ss -0 -p'],
  ])('%s', (_what, tried, fix) => {
    const finding = only({ paths: [tried] })
    expect(finding).toMatchObject({ id: `zero-copy:${tried.name}`, status: 'warning' })
    expect(finding.fix).toContain(fix)
    expect(judge({ ...GOOD_MACHINE, paths: [tried] }).summary).toContain(
      `copy all pages: zero-copy gains nothing on ${tried.name}`,
    )
  })

  it.each(['unanswered', 'refused'] as const)('%s: not known, with the reason', (verdict) => {
    const finding = only({ paths: [path('wg0', verdict, { reason: 'no answer came' })] })
    expect(finding).toMatchObject({ status: 'warning', value: 'not known' })
    expect(finding.meaning).toContain('no answer came')
  })

  it('that was not tried is left to the migration', () => {
    expect(judge({ ...GOOD_MACHINE, paths: [] }).summary).toContain(
      'zero-copy where each channel finds that it pays',
    )
  })
})

describe('limits', () => {
  it('8 MiB of locked memory, as an ordinary user has: less in flight, no registered memory', () => {
    const limited = { lockedMemoryBytes: 8 * 2 ** 20 }
    const finding = only(limited)
    expect(finding).toMatchObject({ id: 'locked-memory', status: 'warning', value: '8 MiB' })
    expect(finding.meaning).toContain('3 MiB unreleased')
    expect(finding.fix).toContain('LimitMEMLOCK=infinity')
    expect(judge({ ...GOOD_MACHINE, ...limited }).summary).not.toContain('registered memory')
  })

  it('a locked-memory limit of 64 KiB leaves no zero-copy; one of 1 GiB all of it', () => {
    expect(only({ lockedMemoryBytes: 65536 }).meaning).toContain('Too little for zero-copy')
    expect(lacking({ lockedMemoryBytes: 2 ** 30 })).toEqual({})
  })

  it.each<[Partial<Facts>, string, string]>([
    [{ optionMemoryBytes: 4096 }, 'option-memory', 'net.core.optmem_max'],
    [{ sendBufferMaxBytes: 212992 }, 'socket-buffers', 'net.core.wmem_max'],
    [{ receiveBufferMaxBytes: 212992 }, 'socket-buffers', 'net.core.rmem_max'],
    [{ tcpSendMaxBytes: 131072 }, 'tcp-buffers', 'net.ipv4.tcp_wmem'],
    [{ overcommit: 2 }, 'overcommit', 'vm.overcommit_memory=0'],
    [{ transparentHugePages: 'never' }, 'huge-pages', 'transparent_hugepage/enabled'],
    [{ cpus: 1 }, 'cpus', 'multifdChannels: 1'],
  ])('%j is a warning of %s, fixed by %s', (changes, id, fix) => {
    const finding = only(changes)
    expect(finding).toMatchObject({ id, status: 'warning' })
    expect(finding.fix).toContain(fix)
  })

  it('that this machine does not tell are left out', () => {
    const untold = {
      overcommit: undefined,
      transparentHugePages: undefined,
      lockedMemoryBytes: undefined,
      optionMemoryBytes: undefined,
      sendBufferMaxBytes: undefined,
      tcpReceiveMaxBytes: undefined,
      congestionControl: undefined,
    }
    expect(lacking(untold)).toEqual({})
    expect(JSON.stringify(judge({ ...GOOD_MACHINE, ...untold }))).not.toMatch(/undefined|NaN/)
  })
})
