// The builds with sanitizers: the native tests and the addon, in one folder per sanitizer. On its
// own, `node scripts/native-builds.mjs addon address` or `tests thread` builds one of them. Nothing
// is downloaded: Node's headers are the ones that came with this Node.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const SHORT_NAMES = { address: 'asan', thread: 'tsan' }

export function folderOf(sanitizer) {
  return join(root, `build-${SHORT_NAMES[sanitizer]}`)
}

export function addonPath(sanitizer) {
  return join(folderOf(sanitizer), 'Release/multifd.node')
}

/** The sentence that says which tool is missing and how to get it; undefined when all are there. */
export function missingTool() {
  const missing = ['cmake', 'make', 'g++'].filter(
    (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).error !== undefined,
  )
  if (missing.length === 0) return undefined
  const packages = missing.includes('cmake') ? 'build-essential cmake' : 'build-essential'
  return (
    `the native tests need ${missing.join(', ')}, which this machine lacks. ` +
    `On Debian or Ubuntu: apt-get install ${packages}`
  )
}

/** Builds the native tests. Returns what was printed when that failed, undefined when it worked. */
export function buildTests(sanitizer) {
  // With the addon, whose tests come later: what both need is compiled once.
  if (sanitizer === 'address') return runCmakeJs(sanitizer)
  const folder = folderOf(sanitizer)
  const jobs = String(availableParallelism())
  return (
    run('cmake', ['-S', root, '-B', folder, `-DMULTIFD_SANITIZE=${sanitizer}`]) ??
    run('cmake', ['--build', folder, '-j', jobs])
  )
}

/** Builds the addon under a sanitizer; the same result. */
export function buildAddon(sanitizer) {
  return runCmakeJs(sanitizer, ['--target', 'multifd'])
}

function runCmakeJs(sanitizer, more = []) {
  const cmakeJs = join(root, 'node_modules/cmake-js/bin/cmake-js')
  const folder = folderOf(sanitizer)
  const jobs = String(availableParallelism())
  // cmake-js looks for headers where npm's nodedir setting says, and else downloads them.
  const prefix = headersPrefix()
  const env = prefix === undefined ? {} : { npm_config_nodedir: prefix }
  const options = [`--CDMULTIFD_SANITIZE=${sanitizer}`, '--parallel', jobs, ...more]
  return run(process.execPath, [cmakeJs, 'build', '-d', root, '-O', folder, ...options], env)
}

/** What to put in front of a command that ThreadSanitizer watches, if anything. */
export function threadSanitizerPrefix() {
  // gcc 12's ThreadSanitizer has fixed places for its shadow memory, which the address space
  // layout of newer kernels may hit (more than 28 random bits): "unexpected memory mapping".
  const setting = '/proc/sys/vm/mmap_rnd_bits'
  const bits = existsSync(setting) ? Number(readFileSync(setting, 'utf8')) : 0
  return bits > 28 ? ['setarch', '-R'] : []
}

/** The environment in which Node can load an addon with AddressSanitizer. */
export function addressSanitizerEnvironment() {
  const runtime = spawnSync('gcc', ['-print-file-name=libasan.so'], { encoding: 'utf8' })
  return {
    LD_PRELOAD: runtime.stdout.trim(),
    // What V8 and Node keep until the end is not ours to report.
    ASAN_OPTIONS: 'detect_leaks=0',
    MULTIFD_NATIVE: addonPath('address'),
  }
}

function headersPrefix() {
  const candidates = [process.env.npm_config_nodedir, dirname(dirname(process.execPath)), '/usr']
  return candidates.find((prefix) => prefix && existsSync(join(prefix, 'include/node/node.h')))
}

function run(command, commandArguments, env = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, commandArguments, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 256 << 20,
    env: { ...process.env, ...env },
  })
  if (status === 0) return undefined
  return `${command} ${commandArguments.join(' ')}\n${stdout}${stderr}${error?.message ?? ''}`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [what, sanitizer] = process.argv.slice(2)
  const build = { addon: buildAddon, tests: buildTests }[what]
  if (build === undefined || SHORT_NAMES[sanitizer] === undefined) {
    console.error('usage: node scripts/native-builds.mjs addon|tests address|thread')
    process.exit(2)
  }
  const failure = missingTool() ?? build(sanitizer)
  if (failure !== undefined) {
    console.error(failure)
    process.exit(1)
  }
  console.log(what === 'addon' ? addonPath(sanitizer) : folderOf(sanitizer))
}
