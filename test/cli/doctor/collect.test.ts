// What is read of this machine, as far as it can be made up: interfaces, packet sockets.

import { describe, expect, it } from 'vitest'
import { interfaceNames, packetSocketsByIndex } from '../../../src/cli/doctor/collect.ts'

const address = (text: string) => ({ address: text }) as never

describe('the interfaces to try', () => {
  it('have an address that is more than link-local, and are named once', () => {
    const names = interfaceNames({
      lo: [address('127.0.0.1')],
      eth0: [address('192.0.2.2'), address('fe80::1')],
      'eth0:backup': [address('192.0.2.3')],
      veth17: [address('fe80::2')],
      wg0: [address('fd00::2')],
      none: [],
    })
    expect(names).toEqual(['lo', 'eth0', 'wg0'])
  })
})

describe('packet sockets', () => {
  const table = [
    'sk               RefCnt Type Proto  Iface R Rmem   User   Inode',
    '0000000000000000 3      3    0003   2     1 0      0      100',
    '0000000000000000 3      3    0003   2     1 0      0      101',
    '0000000000000000 3      3    0003   0     1 0      0      102',
    '0000000000000000 3      3    88cc   2     1 0      0      103',
    '',
  ].join('\n')

  it('are counted by interface, those for one protocol left out', () => {
    expect([...packetSocketsByIndex(table)]).toEqual([
      [2, 2],
      [0, 1],
    ])
    expect(packetSocketsByIndex('').size).toBe(0)
  })
})
