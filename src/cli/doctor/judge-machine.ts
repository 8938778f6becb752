// Judges the machine itself: platform, kernel, Node, addon, processors and memory.

import type { Facts } from './facts.ts'
import { type Finding, showBytes } from './finding.ts'

const ARCHITECTURES = ['x64', 'arm64']

export function judgeMachine(facts: Facts): Finding[] {
  return [
    kernel(facts),
    node(facts),
    addon(facts),
    processors(facts),
    memory(facts),
    ...overcommit(facts),
    ...hugePages(facts),
  ]
}

function kernel({ platform, architecture, kernel }: Facts): Finding {
  const fits = platform === 'linux' && ARCHITECTURES.includes(architecture)
  const about = {
    id: 'kernel',
    title: 'kernel',
    value: `${platform === 'linux' ? 'Linux' : platform} ${kernel}, ${architecture}`,
    details: { platform, architecture, release: kernel },
  }
  if (fits) {
    const meaning = 'What it can do is tried below; its version decides nothing.'
    return { ...about, status: 'ok', meaning }
  }
  return {
    ...about,
    status: 'missing',
    required: true,
    meaning: 'A migration needs Linux on x64 or arm64.',
    fix: 'run both ends on such a machine',
  }
}

function node({ node, nodeLeast }: Facts): Finding {
  const about = {
    id: 'node',
    title: 'Node',
    value: node,
    details: { version: node, least: nodeLeast },
  }
  if (atLeast(node, nodeLeast)) {
    return { ...about, status: 'ok', meaning: `Node ${nodeLeast} or newer is needed.` }
  }
  return {
    ...about,
    status: 'missing',
    required: true,
    meaning: `This package needs Node ${nodeLeast} or newer.`,
    fix: `install Node ${nodeLeast} or newer, then run: npm rebuild`,
  }
}

function atLeast(version: string, least: string): boolean {
  const parts = (text: string): number[] => text.split('.').map((part) => Number.parseInt(part, 10))
  const wanted = parts(least)
  const given = parts(version)
  for (const [index, want] of wanted.entries()) {
    const have = given[index] ?? 0
    if (have !== want) return have > want
  }
  return true
}

function addon({ addonFailure }: Facts): Finding {
  const about = { id: 'addon', title: 'native addon', details: { loaded: !addonFailure } }
  if (addonFailure === undefined) {
    return { ...about, status: 'ok', value: 'loaded', meaning: 'It does the work on every page.' }
  }
  return {
    ...about,
    status: 'missing',
    value: 'not loaded',
    required: true,
    meaning: `Nothing works without it, and the kernel cannot be tried: ${addonFailure}.`,
    fix: 'npm rebuild (an installed package) or npm run build:native (a checkout); needs python3, make and g++',
  }
}

function processors({ cpus }: Facts): Finding {
  const about = { id: 'cpus', title: 'processors', value: String(cpus), details: { cpus } }
  if (cpus > 1) {
    const meaning = 'Each channel is a thread: more channels than processors gain nothing.'
    return { ...about, status: 'ok', meaning }
  }
  return {
    ...about,
    status: 'warning',
    meaning: 'The guest and all channels share one processor: the guest slows down while it moves.',
    fix: 'multifdChannels: 1, and maxBandwidthBytesPerSecond to leave the guest its share',
  }
}

function memory({ memoryAvailableBytes, memoryTotalBytes }: Facts): Finding {
  return {
    id: 'memory',
    title: 'memory available',
    status: 'ok',
    value: `${showBytes(memoryAvailableBytes)} of ${showBytes(memoryTotalBytes)}`,
    details: { availableBytes: memoryAvailableBytes, totalBytes: memoryTotalBytes },
    meaning: "A destination needs what its guest has populated; a source's transport below 64 MiB.",
  }
}

function overcommit({ overcommit }: Facts): Finding[] {
  if (overcommit === undefined) return []
  const about = {
    id: 'overcommit',
    title: 'overcommit',
    value: `${overcommit} (${['heuristic', 'always', 'never'][overcommit] ?? 'unknown'})`,
    details: { setting: overcommit },
  }
  if (overcommit !== 2) {
    const meaning = 'A guest with holes takes only what it has populated.'
    return [{ ...about, status: 'ok', meaning }]
  }
  return [
    {
      ...about,
      status: 'warning',
      meaning:
        'All memory of a guest counts from the start, its holes too: a large one is refused.',
      fix: 'sysctl -w vm.overcommit_memory=0, or back the guest with a file (GuestMemory.openFile)',
    },
  ]
}

function hugePages({ transparentHugePages }: Facts): Finding[] {
  if (transparentHugePages === undefined) return []
  const about = {
    id: 'huge-pages',
    title: 'huge pages',
    value: transparentHugePages,
    details: { setting: transparentHugePages },
  }
  if (transparentHugePages !== 'never') {
    const meaning = 'Guest memory of our own asks for them: fewer page faults on both sides.'
    return [{ ...about, status: 'ok', meaning }]
  }
  return [
    {
      ...about,
      status: 'warning',
      meaning: 'Guest memory is touched 4 KiB at a time: a destination takes longer to fill it.',
      fix: 'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled',
    },
  ]
}
