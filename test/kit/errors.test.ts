// The list of error codes, its documentation and its use are the same: a code that nobody
// documents, nobody raises or nobody declared fails here.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import * as library from '../../src/index.ts'
import { ERROR_CODES, MultifdError } from '../../src/kit/errors.ts'

const root = new URL('../../', import.meta.url)
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8')
const codesIn = (text: string): Set<string> => new Set(text.match(/ERR_MULTIFD_[A-Z_]*[A-Z]/g))

/** Codes in the string literals of source files; comments name codes, too, and raise none. */
function raisedCodes(): Set<string> {
  const found = new Set<string>()
  for (const path of [...listed('src', '.ts'), ...listed('native', '.cc')]) {
    if (path === 'src/kit/errors.ts') continue
    for (const [, code = ''] of read(path).matchAll(/['"](ERR_MULTIFD_[A-Z_]+)['"]/g))
      found.add(code)
  }
  return found
}

function listed(folder: string, ending: string): string[] {
  return readdirSync(new URL(folder, root), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith(ending))
    .map((path) => join(folder, path))
}

describe('error codes', () => {
  const declared = [...ERROR_CODES].sort()

  it('are each documented, with a meaning and what to do', () => {
    const rows = [...read('docs/errors.md').matchAll(/^\| `(ERR_\w+)` \| (.+) \| (.+) \|$/gm)]
    expect(rows.map(([, code]) => code).sort()).toEqual(declared)
    for (const [, code, meaning = '', remedy = ''] of rows) {
      expect(meaning.length, `the meaning of ${code}`).toBeGreaterThan(20)
      expect(remedy.length, `what to do about ${code}`).toBeGreaterThan(20)
    }
    expect([...codesIn(read('docs/errors.md'))].sort()).toEqual(declared)
  })

  it('are each raised somewhere, and nothing else is', () => {
    expect([...raisedCodes()].sort()).toEqual(declared)
  })

  it('are exported, and are what an error carries', () => {
    expect(library.ERROR_CODES).toBe(ERROR_CODES)
    const cause = new Error('reason')
    const error = new library.MultifdError('ERR_MULTIFD_CHANNEL', 'it failed', {
      ...{ channelId: 3, packetNum: 7, syscall: 'recvmsg', errno: 'EFAULT', cause },
    })
    expect(error).toBeInstanceOf(MultifdError)
    expect(error).toMatchObject({ code: 'ERR_MULTIFD_CHANNEL', channelId: 3, packetNum: 7, cause })
    expect(String(error)).toBe('MultifdError: it failed')
    const bare = new MultifdError('ERR_MULTIFD_STATE', 'x')
    expect(Object.keys(bare).sort()).toEqual(['code', 'name'])
    expect('cause' in bare).toBe(false)
  })
})
