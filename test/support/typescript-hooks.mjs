// Module hooks: types are taken out of .ts files as they are loaded; nothing is checked. The
// results are kept in build-test/, so that only the first process has to load the compiler.
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const cache = new URL('../../build-test/typescript/', import.meta.url)

export async function load(url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return nextLoad(url, context)
  const text = await readFile(fileURLToPath(url), 'utf8')
  const kept = new URL(`${createHash('sha1').update(text).digest('hex')}.mjs`, cache)
  const source = await readFile(kept, 'utf8').catch(() => undefined)
  return { format: 'module', source: source ?? (await compile(text, kept)), shortCircuit: true }
}

async function compile(text, kept) {
  const { ModuleKind, ScriptTarget, transpileModule } = (await import('typescript')).default
  const { outputText } = transpileModule(text, {
    compilerOptions: {
      module: ModuleKind.ESNext,
      target: ScriptTarget.ES2022,
      verbatimModuleSyntax: true,
    },
  })
  await keep(outputText, kept)
  return outputText
}

// A program that runs as another user may be unable to, and can do without.
async function keep(outputText, kept) {
  const attempt = new URL(`${kept.href}.${process.pid}`)
  try {
    await mkdir(cache, { recursive: true })
    await writeFile(attempt, outputText)
    await rename(attempt, kept)
  } catch (error) {
    if (error.code !== 'EACCES') throw error
  }
}
