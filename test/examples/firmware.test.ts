// The committed firmware image is what firmware.S assembles to, and has the shape a PC needs.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { FIRMWARE_SIZE_BYTES, firmwareImage } from '../../examples/v86/firmware.ts'

const script = fileURLToPath(new URL('../../examples/v86/build-firmware.sh', import.meta.url))

/** Why the image cannot be assembled here, or undefined. */
function assemblerMissing(): string | undefined {
  try {
    execFileSync('as', ['--32', '-o', '/dev/null', '/dev/null'], { stdio: 'pipe' })
    const emulations = execFileSync('ld', ['-V'], { encoding: 'utf8' })
    return emulations.includes('elf_i386') ? undefined : 'ld has no elf_i386 emulation'
  } catch {
    return 'as does not assemble for i386 (binutils missing?)'
  }
}

test('the firmware image is 64 KiB and starts with a far jump at its reset vector', () => {
  const image = new Uint8Array(firmwareImage())
  expect(image.length).toBe(FIRMWARE_SIZE_BYTES)
  expect([...image.subarray(0xfff0, 0xfff5)]).toEqual([0xea, 0, 0, 0, 0xf0])
})

test('the committed firmware image is what firmware.S assembles to', (context) => {
  const missing = assemblerMissing()
  if (missing !== undefined && process.env.CI !== 'true') context.skip(missing)
  expect(missing).toBeUndefined()
  const folder = mkdtempSync(join(tmpdir(), 'multifd-firmware-'))
  try {
    const path = join(folder, 'firmware.bin')
    execFileSync('sh', [script, path], { stdio: 'pipe' })
    expect(Buffer.compare(readFileSync(path), Buffer.from(firmwareImage()))).toBe(0)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
