// The rig itself: what it sets up, and that nothing of it is left, however its owner ends.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { listNamespaces, run } from '../../bench/namespaces.ts'
import { Rig, type RigSide } from '../../bench/rig.ts'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'
import { limitOptmem, limitRate, rigOrSkip, skipUnless } from '../support/rig.ts'

const OPTMEM_MAX = '/proc/sys/net/core/optmem_max'

/** Runs a program inside the namespace; its output. */
function inside(side: RigSide, ...argv: string[]): Promise<string> {
  const [file = '', ...args] = side.command(argv)
  return run(file, args)
}

/** Inode numbers of the namespaces of a rig, by which processes in them are found. */
const inodes = (...names: string[]): number[] =>
  names.map((name) => statSync(`/run/netns/${name}`).ino)

/** Processes that are in one of these network namespaces. */
function inhabitants(namespaces: readonly number[]): string[] {
  const links = new Set(namespaces.map((inode) => `net:[${inode}]`))
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && links.has(readlinkSync(`/proc/${pid}/ns/net`))
    } catch {
      return false // it ended meanwhile, or is a zombie
    }
  })
}

/** Those of them that are still in there; a later namespace may get the number of an old one. */
const remaining = (pids: readonly string[], namespaces: readonly number[]): string[] =>
  inhabitants(namespaces).filter((pid) => pids.includes(pid))

/** How many listeners the exit and the signals of this process have. */
const listeners = (): number[] =>
  ['exit', 'SIGINT', 'SIGTERM', 'SIGHUP'].map((name) => process.listenerCount(name))

function start(script: string, args: readonly string[], env = {}): ChildProcess {
  const path = fileURLToPath(new URL(script, import.meta.url))
  return spawn(process.execPath, [...TYPESCRIPT_ARGUMENTS, path, ...args], {
    stdio: ['pipe', 'pipe', 'ignore'],
    env: { ...process.env, ...env },
  })
}

/** The first line it prints. */
async function firstLine<T>(child: ChildProcess): Promise<T> {
  const [text] = (await once(child.stdout as NodeJS.EventEmitter, 'data')) as [Buffer]
  return JSON.parse(text.toString()) as T
}

describe('a rig', () => {
  test('joins two namespaces, the receiving device passes packets by XDP', async (context) => {
    await using rig = await rigOrSkip(context)
    const [sending, receiving] = [rig.source, rig.destination]
    expect(await inside(sending, 'ip', '-4', 'addr', 'show')).toContain(`${sending.address}/24`)
    expect(await inside(receiving, 'ip', '-4', 'addr', 'show')).toContain(`${receiving.address}/24`)
    const device = (side: RigSide) => inside(side, 'ip', 'link', 'show', 'dev', side.device)
    expect(await device(receiving)).toMatch(/ mtu 9000 xdp .* state UP /)
    expect(await device(sending)).toMatch(/ mtu 9000 qdisc .* state UP /)
  })

  test('can be a plain veth of another MTU', async (context) => {
    await using rig = await rigOrSkip(context, { xdp: false, mtu: 1500 })
    const { destination } = rig
    const shown = await inside(destination, 'ip', 'link', 'show', 'dev', destination.device)
    expect(shown).toMatch(/ mtu 1500 qdisc .* state UP /)
  })

  test('can be there several times, and each is closed once', async (context) => {
    skipUnless(context, await Rig.unavailable())
    const rigs = await Promise.all([Rig.create(), Rig.create({ xdp: false }), Rig.create()])
    const names = rigs.flatMap(({ source, destination }) => [
      source.namespace,
      destination.namespace,
    ])
    expect(new Set(names).size).toBe(6)
    expect(await listNamespaces()).toEqual(expect.arrayContaining(names))
    await Promise.all(rigs.flatMap((rig) => [rig.close(), rig.close()]))
    for (const rig of rigs) await rig.close()
    for (const name of names) expect(await listNamespaces()).not.toContain(name)
  })

  test('limits the rate of its source, and lifts the limit', async (context) => {
    await using rig = await rigOrSkip(context)
    const queue = () => inside(rig.source, 'tc', 'qdisc', 'show', 'dev', rig.source.device)
    await limitRate(context, rig, { bitsPerSecond: 1e9 })
    expect(await queue()).toMatch(/tbf .*rate 1Gbit burst 625000b lat 50ms/)
    await rig.limitRate({ bitsPerSecond: 2e7, burstBytes: 20_000, queueMs: 10 })
    expect(await queue()).toMatch(/tbf .*rate 20Mbit burst 20000b lat 10ms/)
    await rig.limitRate(undefined)
    expect(await queue()).not.toContain('tbf')
  })

  test('holds a packet socket on the device of its source until it is closed', async (context) => {
    await using rig = await rigOrSkip(context)
    const sockets = async () =>
      (await inside(rig.source, 'cat', '/proc/net/packet')).trim().split('\n').length - 1
    expect(await sockets()).toBe(0)
    {
      await using _ = await rig.openPacketSocket()
      expect(await sockets()).toBe(1)
    }
    expect(await sockets()).toBe(0)
  })

  test('sets the option memory of its source and of nothing else', async (context) => {
    await using rig = await rigOrSkip(context)
    const before = readFileSync(OPTMEM_MAX, 'utf8')
    await limitOptmem(context, rig, 12_345)
    expect(await inside(rig.source, 'cat', OPTMEM_MAX)).toBe('12345\n')
    expect(await inside(rig.destination, 'cat', OPTMEM_MAX)).toBe(before)
    expect(readFileSync(OPTMEM_MAX, 'utf8')).toBe(before)
    await expect(rig.setOptmemMax(-1)).rejects.toThrow(/optmem_max is -1, expected/)
  })

  test('that cannot be set up says why and leaves nothing', async (context) => {
    skipUnless(context, await Rig.unavailable())
    const listening = listeners()
    await expect(Rig.create({ mtu: 1e9 })).rejects.toThrow(/^ip -n .* failed: .*mtu/)
    const ours = (await listNamespaces()).filter((name) => name.includes(`-${process.pid}-`))
    expect(ours).toEqual([])
    expect(listeners()).toEqual(listening)
  })
})

describe('nothing is left of a rig', () => {
  test('that was closed while a packet socket was open', async (context) => {
    skipUnless(context, await Rig.unavailable())
    const listening = listeners()
    const rig = await Rig.create()
    expect(listeners()).not.toEqual(listening)
    const names = [rig.source.namespace, rig.destination.namespace]
    const there = inodes(...names)
    await rig.openPacketSocket()
    const inhabited = inhabitants(there)
    expect(inhabited).toHaveLength(2)
    await rig.close()
    expect(remaining(inhabited, there)).toEqual([])
    for (const name of names) expect(await listNamespaces()).not.toContain(name)
    expect(listeners()).toEqual(listening)
  })

  const endings = [
    { title: 'exits', how: 'exits', signal: undefined, exit: [0, null] },
    { title: 'throws', how: 'throws', signal: undefined, exit: [1, null] },
    { title: 'is interrupted', how: 'stays', signal: 'SIGINT', exit: [null, 'SIGINT'] },
    { title: 'is terminated', how: 'stays', signal: 'SIGTERM', exit: [null, 'SIGTERM'] },
    { title: 'exits on a signal', how: 'staysUntilSignal', signal: 'SIGINT', exit: [3, null] },
  ] as const
  for (const { title, how, signal, exit } of endings) {
    test(`whose owner ${title}`, async (context) => {
      skipUnless(context, await Rig.unavailable())
      const owner = start('owner.ts', [how])
      const exited = once(owner, 'exit')
      const { namespaces } = await firstLine<{ namespaces: string[] }>(owner)
      if (signal !== undefined) owner.kill(signal)
      expect(await exited).toEqual(exit)
      for (const name of namespaces) expect(await listNamespaces()).not.toContain(name)
    })
  }

  test('whose owner was killed, once the next rig is set up', async (context) => {
    skipUnless(context, await Rig.unavailable())
    const owner = start('owner.ts', ['stays'])
    const exited = once(owner, 'exit')
    const { namespaces } = await firstLine<{ namespaces: string[] }>(owner)
    const there = inodes(...namespaces)
    const inhabited = inhabitants(there)
    expect(inhabited).toHaveLength(1)
    await using living = await Rig.create()
    expect(await listNamespaces()).toEqual(expect.arrayContaining(namespaces)) // its owner lives
    owner.kill('SIGKILL')
    expect(await exited).toEqual([null, 'SIGKILL'])
    await using _ = await Rig.create()
    const names = await listNamespaces()
    for (const name of namespaces) expect(names).not.toContain(name)
    expect(names).toContain(living.source.namespace)
    // What holds the XDP program reads the end of its standard input in its own time.
    await expect.poll(() => remaining(inhabited, there), { timeout: 30_000 }).toEqual([])
  })
})

describe('where there can be no rig', () => {
  const ask = (what: string, env: Record<string, string>) =>
    firstLine<{ reason?: string; thrown?: string }>(start('unavailable.ts', [what], env))

  test('for want of root, the reason says so', async () => {
    const { reason } = await ask('unprivileged', { CI: 'true' })
    expect(reason).toBe('the veth rig needs root, to make network namespaces')
  })

  test('for want of a program, the reason names it, and in CI it is a failure', async (context) => {
    skipUnless(context, process.getuid?.() === 0 ? undefined : 'it needs root to come that far')
    const sentence = /^(the veth rig cannot be set up: )?ip -V failed: .* the package iproute2$/
    expect((await ask('without programs', { CI: '' })).reason).toMatch(sentence)
    expect((await ask('without programs', { CI: 'true' })).thrown).toMatch(sentence)
  })
})
