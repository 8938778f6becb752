// The table of the machine that every report ends with.

import type { Environment } from './environment.ts'
import type { Markup } from './markup.ts'
import { card, factsOf } from './page.ts'

const NAMES: readonly (readonly [keyof Environment, string])[] = [
  ['kernel', 'kernel'],
  ['cpu', 'CPU'],
  ['cores', 'cores'],
  ['memoryBytes', 'memory'],
  ['interface', 'path'],
  ['congestionControl', 'congestion control'],
  ['optmemMaxBytes', 'optmem_max, bytes'],
  ['memlockLimit', 'locked memory limit, bytes'],
  ['transparentHugePages', 'transparent huge pages'],
  ['node', 'Node.js'],
  ['version', 'multifd'],
  ['gitRevision', 'revision'],
  ['loadAverage', 'load average before'],
  ['qemu', 'QEMU'],
]

/** Of this one, and of one from a file of an earlier version. */
export function environmentCard(environment: Partial<Environment>): Markup {
  const facts = NAMES.flatMap(([key, name]): [string, string][] => {
    const value = environment[key]
    if (value === undefined || value === null) return []
    if (key === 'memoryBytes') return [[name, `${(Number(value) / 2 ** 30).toFixed(1)} GiB`]]
    const changed = key === 'gitRevision' && environment.gitDirty === true
    return [[name, changed ? `${value}, with changes` : String(value)]]
  })
  return card('Environment', factsOf(facts))
}
