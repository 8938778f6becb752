// Builds the native addon when the package is installed. Says which tool is missing, and how to get
// it, before node-gyp would fail in its own words.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'

const TOOLS = [
  { command: 'python3', debianPackage: 'python3' },
  { command: 'make', debianPackage: 'build-essential' },
  { command: 'g++', debianPackage: 'build-essential' },
]

const missing = TOOLS.filter(({ command }) => {
  const { error } = spawnSync(command, ['--version'], { stdio: 'ignore' })
  return error !== undefined
})

if (process.platform !== 'linux') {
  console.error(`multifd runs on Linux only (this is ${process.platform}).`)
  process.exit(1)
}
if (missing.length > 0) {
  const commands = missing.map(({ command }) => command).join(', ')
  const packages = [...new Set(missing.map(({ debianPackage }) => debianPackage))].join(' ')
  console.error(
    `multifd compiles a native addon and needs ${commands}, which this machine lacks.\n` +
      `On Debian or Ubuntu: apt-get install ${packages}`,
  )
  process.exit(1)
}

// The headers that came with this Node spare a download; without them node-gyp fetches its own.
const prefix = dirname(dirname(process.execPath))
const headers = existsSync(join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : []
// npm puts node-gyp on the PATH of install scripts. What is compiled already is not compiled again:
// npx runs this script when it first links a checkout.
const build = ['configure', 'build', '--jobs', 'max', ...headers]
const { status } = spawnSync('node-gyp', build, { stdio: 'inherit' })
process.exit(status ?? 1)
