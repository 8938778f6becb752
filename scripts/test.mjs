// npm test: everything that must hold before a commit, stage by stage, and one last line for people
// and machines: "N passed, N failed". All stages run, whatever failed before. Exits with 1 when
// anything failed, or when nothing ran.
//
//   node scripts/test.mjs [stage...]     only these; without any, all in this order
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as native from './native-builds.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const inCi = Boolean(process.env.CI) && process.env.CI !== 'false'

const STAGES = {
  build: () => runTool('tsc', ['-p', 'tsconfig.json']),
  lint: () => [
    runTool('biome', ['check', '.']),
    runCommand(process.execPath, ['scripts/check-imports.mjs']),
    runTool('tsc', ['-p', 'tsconfig.test.json']),
  ],
  'native-asan': () => runNativeTests('address'),
  'native-tsan': () => runNativeTests('thread'),
  vitest: () => runVitest([]),
  'addon-asan': () => runWithSanitizedAddon(),
}

// What a stage comes to. A check without tests of its own counts only when it fails.
const OK = { passed: 0, failed: 0, skipped: 0 }
const FAILED = { passed: 0, failed: 1, skipped: 0 }

function main(wanted) {
  const unknown = wanted.filter((name) => !(name in STAGES))
  if (unknown.length > 0) {
    console.error(`no stage ${unknown.join(', ')}; stages are ${Object.keys(STAGES).join(', ')}`)
    process.exit(2)
  }
  const total = { ...OK }
  const failedStages = []
  for (const name of wanted.length > 0 ? wanted : Object.keys(STAGES)) {
    const startedMs = performance.now()
    console.log(`\n── ${name}`)
    const counts = sum([STAGES[name]()].flat())
    for (const key of Object.keys(total)) total[key] += counts[key]
    if (counts.failed > 0) failedStages.push(name)
    const seconds = ((performance.now() - startedMs) / 1000).toFixed(1)
    console.log(`── ${name}: ${describe(counts)} (${seconds} s)`)
  }
  if (failedStages.length > 0) console.log(`\nfailed: ${failedStages.join(', ')}`)
  if (total.passed === 0) console.log('\nno test ran')
  console.log(`\n${describe(total)}`)
  process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0
}

function describe({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}

function sum(list) {
  const total = { ...OK }
  for (const counts of list) {
    for (const key of Object.keys(total)) total[key] += counts[key]
  }
  return total
}

function runTool(name, toolArguments, env) {
  return runCommand(join(root, 'node_modules/.bin', name), toolArguments, env)
}

function runCommand(command, commandArguments, env = {}) {
  const { status } = spawnSync(command, commandArguments, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  })
  return status === 0 ? OK : FAILED
}

// Loud on a developer's machine, where the rest of the tests is still worth running; never in CI.
function withoutTools(sentence) {
  if (inCi) {
    console.error(`FAILED: ${sentence}`)
    return FAILED
  }
  console.error(`!!! SKIPPED: ${sentence}`)
  return { passed: 0, failed: 0, skipped: 1 }
}

function runNativeTests(sanitizer) {
  const missing = native.missingTool()
  if (missing !== undefined) return withoutTools(missing)
  const failure = native.buildTests(sanitizer)
  if (failure !== undefined) {
    console.error(failure)
    return FAILED
  }
  const [command, ...commandArguments] = [
    ...(sanitizer === 'thread' ? native.threadSanitizerPrefix() : []),
    ...['ctest', '--test-dir', native.folderOf(sanitizer), '--verbose'],
    ...['--parallel', String(availableParallelism())],
  ]
  const { status, stdout, stderr } = spawnSync(command, commandArguments, {
    encoding: 'utf8',
    maxBuffer: 256 << 20,
    env: {
      ...process.env,
      TSAN_OPTIONS: 'halt_on_error=1 second_deadlock_stack=1',
      UBSAN_OPTIONS: 'print_stacktrace=1',
    },
  })
  const counts = readNativeCounts(stdout ?? '', status === 0)
  if (counts.failed > 0) console.log(`${stdout}${stderr}`)
  return counts
}

// Each program ends with "N passed, N failed"; one that crashed does not, and CTest says so.
function readNativeCounts(output, succeeded) {
  const counts = { ...OK }
  const names = new Map()
  for (const line of output.split('\n')) {
    const start = /^\s*Start\s+(\d+): (\S+)/.exec(line)
    if (start) names.set(start[1], start[2])
    const summary = /^(\d+): (\d+) passed, (\d+) failed/.exec(line)
    if (summary) {
      counts.passed += Number(summary[2])
      counts.failed += Number(summary[3])
      console.log(`   ${names.get(summary[1])}: ${summary[2]} passed, ${summary[3]} failed`)
    }
    const skipped = /^\d+: SKIP (.*)/.exec(line)
    if (skipped) {
      counts.skipped += 1
      console.log(`   SKIPPED: ${skipped[1]}`)
    }
  }
  if (!succeeded && counts.failed === 0) counts.failed = 1
  return counts
}

function runVitest(filters, env = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'multifd-test-'))
  const report = join(folder, 'report.json')
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const { failed } = runTool('vitest', ['run', ...filters, ...reporters], env)
  const counts = { ...OK }
  if (existsSync(report)) {
    const result = JSON.parse(readFileSync(report, 'utf8'))
    counts.passed = result.numPassedTests
    counts.failed = result.numFailedTests
    counts.skipped = result.numPendingTests + result.numTodoTests
  }
  rmSync(folder, { recursive: true, force: true })
  // A file that could not be loaded, or an error outside of any test.
  if (failed > 0 && counts.failed === 0) counts.failed = 1
  return counts
}

// What drives the addon through its life, once more with the addon under AddressSanitizer and
// UndefinedBehaviorSanitizer.
function runWithSanitizedAddon() {
  const missing = native.missingTool()
  if (missing !== undefined) return withoutTools(missing)
  const failure = native.buildAddon('address')
  if (failure !== undefined) {
    console.error(failure)
    return FAILED
  }
  const filters = ['lifecycle', 'migrate/end-to-end', 'migrate/dirty-log', 'payload']
  return runVitest(
    filters.map((filter) => `test/${filter}`),
    native.addressSanitizerEnvironment(),
  )
}

main(process.argv.slice(2))
