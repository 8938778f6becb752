// Prints a diagnosis: text for people, one JSON object on one line for programs. Pure.

// As a whole: an older Node, which the doctor is to report, has no styleText.
import util from 'node:util'
import type { Finding, Status } from './finding.ts'
import type { Diagnosis } from './judge.ts'

const COLOURS = { ok: 'green', warning: 'yellow', missing: 'red' } as const
const STATUS_WIDTH = 'warning'.length
const COLUMNS = 100
const COLUMNS_LEAST = 40

type Paint = (colour: Parameters<typeof util.styleText>[0], text: string) => string

export function jsonReport({ canMigrate, summary, findings }: Diagnosis): string {
  return `${JSON.stringify({ command: 'doctor', canMigrate, summary, findings })}\n`
}

export function textReport(
  { findings, summary }: Diagnosis,
  { colour, columns = COLUMNS }: { colour: boolean; columns?: number | undefined },
): string {
  const paint: Paint = (style, text) =>
    colour && util.styleText ? util.styleText(style, text, { validateStream: false }) : text
  const width = Math.max(COLUMNS_LEAST, Math.min(columns, COLUMNS))
  const titleWidth = Math.max(...findings.map(({ title }) => title.length))
  const lines = findings.flatMap((finding) => describe(finding, { paint, width, titleWidth }))
  const end = [counted(findings), ...wrap(summary, width)]
  return `${[...lines, '', ...end.map((line) => paint('bold', line))].join('\n')}\n`
}

function describe(
  { status, title, value, meaning, fix }: Finding,
  { paint, width, titleWidth }: { paint: Paint; width: number; titleWidth: number },
): string[] {
  const indent = ' '.repeat(STATUS_WIDTH + 2)
  const wrapped = (text: string): string[] =>
    wrap(text, width - indent.length).map((line) => indent + line)
  return [
    `${paint(COLOURS[status], status.padEnd(STATUS_WIDTH))}  ${title.padEnd(titleWidth)}  ${value}`,
    ...wrapped(meaning).map((line) => paint('dim', line)),
    ...(fix === undefined ? [] : wrapped(`fix: ${fix}`).map((line) => paint('cyan', line))),
  ]
}

/** '14 ok, 2 warnings, 1 missing.' */
function counted(findings: readonly Finding[]): string {
  const count = (status: Status): number =>
    findings.filter((finding) => finding.status === status).length
  const warnings = count('warning')
  return `${count('ok')} ok, ${warnings} warning${warnings === 1 ? '' : 's'}, ${count('missing')} missing.`
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  return [...lines, line]
}
