// Answers to query-migrate of Debian's QEMU 7.2.22, one per status; pre-switchover with
// pause-before-switchover. The figures under `ram` are of one of them, the names of all.

/** Names that QEMU 7.2 has and we leave out, as later versions do. */
const DROPPED = ['ram.skipped']

/** The names of an answer's fields, those of `ram` behind it. */
export function shapeOf(answer: object): string[] {
  const names = Object.entries(answer).flatMap(([name, value]) =>
    typeof value === 'object' && value !== null
      ? [name, ...Object.keys(value).map((inner) => `${name}.${inner}`)]
      : [name],
  )
  return names.filter((name) => !DROPPED.includes(name)).sort()
}

const RAM = {
  total: 67649536,
  'postcopy-requests': 0,
  'dirty-sync-count': 2,
  'multifd-bytes': 0,
  'pages-per-second': 81695,
  'downtime-bytes': 0,
  'page-size': 4096,
  remaining: 921600,
  'postcopy-bytes': 0,
  mbps: 32.0936380952381,
  transferred: 1840297,
  'dirty-sync-missed-zero-copy': 0,
  'precopy-bytes': 1840297,
  duplicate: 16134,
  'dirty-pages-rate': 0,
  skipped: 0,
  'normal-bytes': 1691648,
  normal: 413,
}

export const RECORDED_ANSWERS = {
  none: {},
  active: {
    'expected-downtime': 1,
    status: 'active',
    'setup-time': 72,
    'total-time': 423,
    ram: RAM,
  },
  'pre-switchover': {
    'expected-downtime': 2000,
    status: 'pre-switchover',
    'setup-time': 35,
    'total-time': 55,
    ram: { ...RAM, remaining: 0, mbps: 0 },
  },
  completed: {
    status: 'completed',
    'setup-time': 35,
    downtime: 7,
    'total-time': 59,
    ram: { ...RAM, remaining: 0, 'pages-per-second': 0, 'downtime-bytes': 1054735 },
  },
  cancelled: { status: 'cancelled' },
  failed: {
    status: 'failed',
    'error-desc': "Failed to connect to '127.0.0.1:1': Connection refused",
  },
} as const
