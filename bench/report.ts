// Turns findings into text: a table for people, one JSON object for machines.

import type { Environment } from '../src/report/environment.ts'
import type { Findings, Skipped, Table } from './comparison.ts'
import type { Ratio } from './run.ts'

/** The object on the last line of a run with `--json`. */
export interface JsonReport {
  readonly comparison: string
  readonly environment: Environment
  readonly results: Record<string, unknown>
  readonly ratios: Record<string, Ratio>
  /** What was not measured, and why. */
  readonly skipped: readonly Skipped[]
}

export function jsonLine(report: JsonReport): string {
  return JSON.stringify(report)
}

/** The readable report: environment, tables, ratios with their spread, notes, what is missing. */
export function textReport(
  name: string,
  question: string,
  environment: Environment,
  findings: Findings,
): string {
  const ratioTable: Table = {
    title: 'Ratios, one per turn',
    columns: ['ratio', 'median', 'min', 'max', 'turns'],
    rows: Object.entries(findings.ratios).map(([ratioName, ratio]) => [
      ratioName,
      ratio.median.toFixed(3),
      ratio.min.toFixed(3),
      ratio.max.toFixed(3),
      String(ratio.samples.length),
    ]),
  }
  return [
    `${name}: ${question}`,
    '',
    ...Object.entries(environment).map(([key, value]) => `  ${key.padEnd(21)} ${value}`),
    ...[...findings.tables, ratioTable].flatMap((table) => ['', ...tableLines(table)]),
    '',
    ...findings.notes.map((note) => `- ${note}`),
    ...(findings.skipped ?? []).map(({ what, reason }) => `- Left out: ${what} (${reason}).`),
  ].join('\n')
}

/** A table as lines: the first column to the left, figures to the right. */
export function tableLines({ title, columns, rows }: Table): string[] {
  const widths = columns.map((column, i) =>
    Math.max(column.length, ...rows.map((row) => row[i]?.length ?? 0)),
  )
  const line = (cells: readonly string[]) =>
    widths
      .map((width, i) =>
        i === 0 ? (cells[i] ?? '').padEnd(width) : (cells[i] ?? '').padStart(width),
      )
      .join('  ')
      .trimEnd()
  return [
    title,
    ...[columns, widths.map((width) => '-'.repeat(width)), ...rows].map((row) => `  ${line(row)}`),
  ]
}

/** Bytes in the largest binary unit that keeps it at 1 or more. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[unit]}`
}
