// Builds the test-only addon (test/support/writer.cc) with node-gyp into build-test/. Does nothing
// if what is there is newer than the source. The result appears by a rename, so that several
// callers at once do no harm.
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const source = join(root, 'test/support/writer.cc')
const built = join(root, 'build-test/writer.node')

if (!existsSync(built) || statSync(built).mtimeMs < statSync(source).mtimeMs) build()

function build() {
  const folder = join(root, 'build-test', `attempt-${process.pid}`)
  mkdirSync(folder, { recursive: true })
  const target = {
    target_name: 'writer',
    sources: ['writer.cc'],
    defines: ['NAPI_VERSION=9'],
    cflags_cc: ['-std=c++20', '-Wall', '-Wextra', '-Werror'],
  }
  copyFileSync(source, join(folder, 'writer.cc')) // gyp wants its sources below its own folder
  writeFileSync(join(folder, 'binding.gyp'), JSON.stringify({ targets: [target] }))
  const gyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
  // The headers that came with this Node spare a download; without them node-gyp fetches its own.
  const prefix = dirname(dirname(process.execPath))
  const headers = existsSync(join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : []
  const { status, stdout, stderr } = spawnSync(process.execPath, [gyp, 'rebuild', ...headers], {
    cwd: folder,
    encoding: 'utf8',
  })
  if (status === 0) renameSync(join(folder, 'build/Release/writer.node'), built)
  rmSync(folder, { recursive: true, force: true })
  if (status === 0) return
  console.error(`building ${source} failed:\n${stdout}${stderr}`)
  process.exitCode = 1
}
