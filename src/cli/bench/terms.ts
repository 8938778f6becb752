// What both ends of `multifd bench` go by: the greeting, the made-up guest, and how CPU time is
// counted. Data only, and one look at the clock.

/** First words of a server; a later version that speaks otherwise has another number. */
export const GREETING = { multifdBench: 1 } as const
export const DEFAULT_PORT = 4460
export const BLOCK_NAME = 'pc.ram'
export const PAGE_BYTES = 4096

/** CPU time of this whole program since then, seconds. */
export function cpuSecondsSince(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1e6
}

/** `tcp:HOST:PORT` of what a person calls a host: a name, an address, `host:port`, or a URI. */
export function benchUri(where: string): string {
  if (/^(tcp|unix):/.test(where)) return where
  if (/^[^:]+:\d+$/.test(where)) return `tcp:${where}`
  return where.includes(':') ? `tcp:[${where}]:${DEFAULT_PORT}` : `tcp:${where}:${DEFAULT_PORT}`
}
