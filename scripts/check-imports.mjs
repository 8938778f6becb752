// Checks what no compiler checks: who may import whom (ARCHITECTURE.md), that every native source
// is built, and the plain limits on files, lines and names. Prints file:line and the rule, and
// exits with 1 when one is broken. Reads what git tracks or would track; changes nothing.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = fileURLToPath(new URL('..', import.meta.url))
const LINES_MAX = 400
const COLUMNS_MAX = 100

// Each room, with the rooms it may import besides itself.
const TYPESCRIPT_ROOMS = {
  kit: [],
  wire: ['kit'],
  guest: ['kit'],
  channel: ['kit', 'wire', 'guest'],
  schedule: ['kit', 'type wire', 'type guest', 'type channel'],
  migrate: ['kit', 'wire', 'guest', 'channel', 'schedule'],
  source: ['kit', 'wire', 'guest', 'channel', 'schedule', 'migrate'],
  destination: ['kit', 'wire', 'guest', 'channel', 'schedule', 'migrate'],
  snapshot: ['kit', 'wire', 'guest', 'channel', 'schedule', 'migrate', 'source', 'destination'],
  relay: ['kit', 'wire', 'channel', 'migrate', 'snapshot'],
  report: ['kit', 'type channel', 'type migrate', 'type snapshot', 'type relay'],
  cli: [
    ...['kit', 'wire', 'guest', 'channel', 'schedule', 'migrate', 'source', 'destination'],
    ...['snapshot', 'relay', 'report'],
  ],
}
// From left to right: a room may include itself and what stands to its left.
const NATIVE_ROOMS = ['base', 'guest', 'wire', 'payload', 'engine', 'channel', 'binding']

// Words for things of our own that say too little. Terms of the kernel, of QEMU and of Node stay;
// so do constants of theirs (TCP_INFO) and what begins with napi_.
const VAGUE_WORDS = 'chunk segment frame message cutover manager helper util utils info process'
const FOREIGN_NAMES = new Set([
  'message', // msghdr, Error.message
  'message_',
  'process', // Node's
  'tcp_info',
  'ee_info',
  'info', // what node-addon-api calls a call
  'CallbackInfo',
])
const FOREIGN_SHAPE = /^([A-Z][A-Z0-9_]+|napi_\w+)$/
const UNFINISHED = /\bTO(?:DO)\b|\bFIX(?:ME)\b/

const findings = []
const report = (file, line, rule) => findings.push({ file, line, rule })

function main() {
  const files = listFiles()
  for (const file of files) {
    const text = readFileSync(join(root, file), 'utf8')
    checkText(file, text)
    if (/\.(ts|mjs)$/.test(file)) checkTypeScript(file, text)
    if (/\.(cc|h)$/.test(file)) checkNative(file, text)
  }
  checkSourceList(files)
  for (const { file, line, rule } of findings) console.error(`${file}:${line}: ${rule}`)
  if (findings.length > 0) {
    console.error(`check-imports: ${findings.length} broken rules in ${files.length} files`)
    process.exit(1)
  }
  console.log(`check-imports: ${files.length} files keep the rules`)
}

function listFiles() {
  const listed = execFileSync('git', ['ls-files', '-z', '-co', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  })
  return listed
    .split('\0')
    .filter((file) => /^(src|native|test|bench|examples|scripts)\//.test(file))
    .filter((file) => /\.(ts|mjs|cc|h|S|sh)$/.test(file) && existsSync(join(root, file)))
}

function checkText(file, text) {
  const lines = text.replace(/\n$/, '').split('\n')
  if (lines.length > LINES_MAX) {
    report(file, LINES_MAX + 1, `${lines.length} lines, at most ${LINES_MAX}: split the file`)
  }
  lines.forEach((line, index) => {
    const columns = [...line].length
    // In TypeScript the formatter breaks what can be broken of the code, but no comment.
    const counts = /\.(cc|h|S|sh)$/.test(file) || /^\s*(\/\/|\/?\*)/.test(line)
    if (counts && columns > COLUMNS_MAX) {
      report(file, index + 1, `${columns} columns, at most ${COLUMNS_MAX}`)
    }
    if (UNFINISHED.test(line)) report(file, index + 1, 'unfinished work is not committed')
  })
  const name = basename(file).replace(/\..*/, '')
  const vague = vagueWord(name)
  if (vague) report(file, 1, `the file name says "${vague}": name what it does`)
}

function checkTypeScript(file, text) {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true)
  const lineOf = (node) => source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1
  const visit = (node) => {
    const imported = importOf(node)
    if (imported) checkImport(file, lineOf(node), imported)
    if (node.name && ts.isIdentifier(node.name) && isOwnName(node)) {
      checkName(file, lineOf(node.name), node.name.text)
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
}

// What a node imports: { path, typeOnly }, or nothing.
function importOf(node) {
  if (ts.isImportDeclaration(node)) {
    const named = node.importClause?.namedBindings
    const allTypes =
      named !== undefined &&
      ts.isNamedImports(named) &&
      node.importClause.name === undefined &&
      named.elements.length > 0 &&
      named.elements.every((element) => element.isTypeOnly)
    const typeOnly = node.importClause?.isTypeOnly === true || allTypes
    return { path: node.moduleSpecifier.text, typeOnly }
  }
  if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
    return { path: node.moduleSpecifier.text, typeOnly: node.isTypeOnly }
  }
  if (ts.isImportTypeNode(node)) return { path: node.argument.literal.text, typeOnly: true }
  if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
    return { path: node.arguments[0].text ?? '', typeOnly: false }
  }
  return undefined
}

function checkImport(file, line, { path, typeOnly }) {
  if (!path.startsWith('.')) return // Node's, or a dependency's
  const target = relative(root, resolve(root, dirname(file), path))
  const [top] = file.split('/')
  if (top === 'src') checkRoom(file, line, target, typeOnly)
  const outside = top === 'examples' || top === 'bench'
  const open = target === 'src/index.ts' || target.startsWith('src/report/')
  if (outside && !target.startsWith(`${top}/`) && !open) {
    report(file, line, `${top} imports ${target}: only src/index.ts, src/report and its own files`)
  }
}

function checkRoom(file, line, target, typeOnly) {
  const from = roomOf(file)
  if (from === 'index') {
    // What plots would otherwise come with the library.
    if (roomOf(target) === 'report') report(file, line, 'src/index.ts exports no report')
    return
  }
  if (!target.startsWith('src/')) {
    report(file, line, `src imports ${target}: nothing outside src`)
    return
  }
  const to = roomOf(target)
  const allowed = TYPESCRIPT_ROOMS[from]
  if (allowed === undefined) {
    report(file, line, `${from} is no room: rooms are ${Object.keys(TYPESCRIPT_ROOMS).join(', ')}`)
  } else if (from !== to && !allowed.includes(to)) {
    if (!allowed.includes(`type ${to}`)) {
      report(file, line, `room ${from} imports room ${to}: ${allowed.join(', ') || 'nothing'} only`)
    } else if (!typeOnly) {
      report(file, line, `room ${from} imports values of room ${to}: types only`)
    }
  }
}

// 'src/wire/packet.ts' -> 'wire', 'src/source.ts' -> 'source'
function roomOf(file) {
  return file.split('/')[1].replace(/\.ts$/, '')
}

// Declares a name of ours; not a member that an import or a destructuring takes from elsewhere.
function isOwnName(node) {
  return (
    ts.isVariableDeclaration(node) ||
    ts.isParameter(node) ||
    ts.isFunctionDeclaration(node) ||
    ts.isClassDeclaration(node) ||
    ts.isInterfaceDeclaration(node) ||
    ts.isTypeAliasDeclaration(node) ||
    ts.isPropertyDeclaration(node) ||
    ts.isPropertySignature(node) ||
    ts.isMethodDeclaration(node) ||
    ts.isMethodSignature(node)
  )
}

function checkNative(file, text) {
  const code = text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/"(?:[^"\\\n]|\\.)*"|\/\/.*/g, (match) => (match[0] === '"' ? match : ''))
  code.split('\n').forEach((line, index) => {
    const include = /^\s*#\s*include\s+(["<])([^">]+)[">]/.exec(line)
    if (include) {
      checkInclude(file, index + 1, include[1] === '"', include[2])
    } else {
      const names = line.replace(/"(?:[^"\\]|\\.)*"/g, '').match(/[A-Za-z_]\w*/g) ?? []
      for (const name of new Set(names)) checkName(file, index + 1, name)
    }
  })
}

function checkInclude(file, line, quoted, path) {
  const inBinding = file.startsWith('native/binding/')
  if (!file.startsWith('native/')) return
  if (path === 'napi.h' || path === 'node_api.h') {
    if (!inBinding) report(file, line, `${path} belongs to native/binding only`)
    return
  }
  if (!quoted) return
  const from = NATIVE_ROOMS.indexOf(file.split('/')[1])
  const to = NATIVE_ROOMS.indexOf(path.split('/')[0])
  if (from < 0) {
    report(file, line, `native/${file.split('/')[1]} is no room: ${NATIVE_ROOMS.join(', ')}`)
  } else if (to < 0 || !existsSync(join(root, 'native', path))) {
    report(file, line, `"${path}": includes are given from native/, as "base/result.h"`)
  } else if (to > from) {
    report(file, line, `room ${NATIVE_ROOMS[from]} includes room ${NATIVE_ROOMS[to]}, to its right`)
  }
}

function checkName(file, line, name) {
  if (file.startsWith('test/') || FOREIGN_NAMES.has(name) || FOREIGN_SHAPE.test(name)) return
  const vague = vagueWord(name)
  if (vague) report(file, line, `"${name}" says "${vague}": name what it is`)
}

function vagueWord(name) {
  const words = name
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .toLowerCase()
    .split(/[^a-z0-9]+/)
  return words.find((word) => VAGUE_WORDS.split(' ').includes(word.replace(/(?<=..)s$/, '')))
}

// Both build systems read native/sources.gypi: a file that is not in it would be dead.
function checkSourceList(files) {
  const list = 'native/sources.gypi'
  const { variables } = JSON.parse(readFileSync(join(root, list), 'utf8'))
  const listed = Object.values(variables).flat()
  for (const file of files) {
    if (/^native\/.*\.cc$/.test(file) && !listed.includes(file)) {
      report(file, 1, `is not in ${list}, so nothing builds it`)
    }
  }
  for (const file of listed) {
    if (!existsSync(join(root, file))) report(list, 1, `${file} does not exist`)
  }
}

main()
