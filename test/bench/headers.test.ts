// The comparison of headers, at sizes that take milliseconds: these are no measurements, but what
// it counts and what it compares must be right, and it must notice when contents are wrong.
import { describe, expect, it } from 'vitest'
import { headers } from '../../bench/comparisons/headers.ts'
import { type HeadersOptions, runHeaders, WAYS, type Way } from '../../bench/headers-program.ts'
import { LOOPBACK } from '../../bench/path.ts'

const MIB = 2 ** 20
const PACKETS = 16
const { signal } = new AbortController()

const small = (way: Way): HeadersOptions => ({
  path: LOOPBACK,
  way,
  memoryBytes: PACKETS * MIB,
  bodyBytes: MIB,
  headerBytes: 4096,
  socketBufferBytes: MIB,
  reap: 'end',
  verify: true,
})

describe('the program behind the comparison of headers', () => {
  it.each(WAYS)('%s: headers and bodies arrive whole and in order', async (way) => {
    const run = await runHeaders(small(way), { signal })
    const calls = ['none', 'one-call'].includes(way) ? 1 : 2
    // A plain header takes no id: only zero-copy calls are notified.
    expect(run).toMatchObject({ verified: true, packets: PACKETS, zeroCopyCalls: PACKETS })
    expect(run.sendCalls - run.refusals).toBe(calls * PACKETS)
    const inZeroCopy = way === 'one-call' ? PACKETS * (MIB + 4096) : PACKETS * MIB
    expect(run.copiedBytes + run.zeroCopyBytes).toBe(inZeroCopy)
    expect(run.receiverCpuSeconds).toBeGreaterThan(0)
    if (way === 'flush') expect(run.unreleasedHighBytes).toBe(MIB)
    else expect(run.unreleasedHighBytes).toBeGreaterThan(MIB)
  })

  it.for(['plain', 'more', 'one-call'] as const)(
    '%s: the kernel joins notifications across the headers',
    async (way, { skip }) => {
      const run = await runHeaders(small(way), { signal })
      skip(run.refusals > 0, 'too little memory may be locked: the queue was read in between')
      expect(run.notifications).toBe(1)
      expect(run.widestRange).toBe(PACKETS)
    },
  )

  it.each([
    ['none', /body 0 is not what was sent: it differs from byte 0 on/],
    ['plain', /header 0 is not what was sent: it differs from byte 0 on/],
  ] as const)('%s: other contents than expected are noticed', async (way, sentence) => {
    const run = runHeaders({ ...small(way), expectedSeed: 2 }, { signal })
    await expect(run).rejects.toThrow(sentence)
  })
})

describe('the comparison of headers', () => {
  it('reports every way on every path', async () => {
    const findings = await headers.run({
      options: { memory: 4 * MIB, body: MIB, header: 4096, pairs: 1 },
      signal,
      progress: () => {},
    })
    const missing = (findings.skipped ?? []).map(({ what }) => what)
    for (const skip of findings.skipped ?? []) console.log(`left out: ${skip.what}, ${skip.reason}`)
    for (const where of ['Lo', 'Rig'].filter((name) => !missing.includes(name.toLowerCase()))) {
      for (const way of ['none', 'plain', 'more', 'flush']) {
        for (const what of ['', 'SenderCpu']) {
          const ratio = findings.ratios[`${way}VsOneCall${where}${what}`]
          expect(ratio?.samples).toEqual([expect.any(Number)])
          expect(ratio?.median).toBeGreaterThan(0)
        }
      }
    }
    expect(findings.tables).toHaveLength(2 - missing.length)
    for (const { columns, rows } of findings.tables) {
      expect(rows.map((row) => row.length)).toEqual(WAYS.map(() => columns.length))
    }
  })

  it('refuses a memory that is no multiple of the body', async () => {
    const options = { memory: 3 * MIB, body: 2 * MIB, header: 4096, pairs: 1 }
    const refused = headers.run({ options, signal, progress: () => {} })
    await expect(refused).rejects.toThrow(
      /--memory is 3 MiB, expected a multiple of --body \(2 MiB\)/,
    )
  })
})
