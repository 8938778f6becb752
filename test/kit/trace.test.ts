// The trace channels as documented, as declared and as published by a real migration are the same.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { MigrationDestination } from '../../src/destination.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { TRACE_CHANNELS } from '../../src/kit/trace.ts'
import { MigrationSource } from '../../src/source.ts'

const root = new URL('../../', import.meta.url)
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8')

const SIZE_BYTES = 16 * 1024 * 1024

type Fields = Record<string, string[]>

/** Channel and payload fields of the rows of docs/tracing.md. */
function documented(): Fields {
  const rows = [...read('docs/tracing.md').matchAll(/^\| `(multifd:\w+)` \| ([^|]+) \|/gm)]
  return Object.fromEntries(
    rows.map(([, name = '', cell = '']) => {
      return [name, [...cell.matchAll(/`(\w+)`/g)].map(([, field = '']) => field).sort()]
    }),
  )
}

/** The same of the interface TraceEvents. */
function declared(): Fields {
  const file = ts.createSourceFile('trace.ts', read('src/kit/trace.ts'), ts.ScriptTarget.ES2022)
  const fields: Fields = {}
  for (const statement of file.statements) {
    if (!ts.isInterfaceDeclaration(statement) || statement.name.text !== 'TraceEvents') continue
    for (const member of statement.members) {
      if (!ts.isPropertySignature(member) || !ts.isStringLiteral(member.name)) continue
      const { type } = member
      if (type === undefined || !ts.isTypeLiteralNode(type)) continue
      fields[member.name.text] = type.members
        .map((field) =>
          field.name !== undefined && ts.isIdentifier(field.name) ? field.name.text : '',
        )
        .sort()
    }
  }
  return fields
}

describe('trace channels', () => {
  it('are documented as they are declared', () => {
    expect(Object.keys(declared()).length).toBeGreaterThan(3)
    expect(documented()).toEqual(declared())
    expect([...TRACE_CHANNELS].sort()).toEqual(Object.keys(declared()).sort())
  })

  it('publish what is documented, and tell the life of a migration', async () => {
    const events: { name: string; payload: Record<string, unknown> }[] = []
    const listeners = TRACE_CHANNELS.map((name) => {
      const listener = (payload: unknown): void => {
        events.push({ name, payload: payload as Record<string, unknown> })
      }
      subscribe(name, listener)
      return { name, listener }
    })
    await migrateOnce()
    for (const { name, listener } of listeners) unsubscribe(name, listener)
    for (const { name, payload } of events) {
      expect(Object.keys(payload).sort(), name).toEqual(documented()[name])
    }
    const states = (side: string): unknown[] =>
      events.flatMap(({ name, payload }) => {
        return name === 'multifd:state' && payload.side === side ? [payload.to] : []
      })
    expect(states('source')).toEqual(['setup', 'active', 'device', 'completed'])
    expect(states('destination')).toEqual(['setup', 'active', 'device', 'completed'])
    const rounds = events.filter(({ name }) => name === 'multifd:round')
    expect(rounds.at(0)?.payload).toMatchObject({
      round: 0,
      dirtyPages: SIZE_BYTES / 4096,
      extents: 8, // of 2 MiB, the least
      final: false,
    })
    expect(rounds.at(-1)?.payload).toMatchObject({ final: true })
    const syncs = events.filter(({ name }) => name === 'multifd:sync')
    expect(syncs.filter(({ payload }) => payload.side === 'destination').length).toBe(
      syncs.filter(({ payload }) => payload.side === 'source').length + 1,
    )
    // On loopback each channel finds out that the kernel copies.
    const flushes = events.filter(({ name }) => name === 'multifd:flush')
    expect(flushes.map(({ payload }) => payload.channelId).sort()).toEqual([0, 1])
    for (const { payload } of flushes) {
      expect(payload).toMatchObject({ mode: 'off', reason: 'copied by the kernel' })
    }
  })
})

async function migrateOnce(): Promise<void> {
  await using memory = GuestMemory.openMemfd('guest.ram', SIZE_BYTES)
  await using received = GuestMemory.openMemfd('guest.ram', SIZE_BYTES)
  memory.view('guest.ram').fill(1)
  await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
    memory: received,
  })
  const source = new MigrationSource({
    memory,
    vmm: { stop: () => {}, resume: () => {} },
    engine: 'sendmsg', // the one that asks the kernel
  })
  await source.migrate(destination.uri).result
  await destination.completed
}
