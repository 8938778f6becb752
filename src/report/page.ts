// The shell of every report: one file that needs nothing else, runs no script and asks no server.
// It knows titles, figures, tables and pictures; what they show is the business of the reports.

import { type Content, embeddedJson, html, Markup } from './markup.ts'
import { STYLES } from './styles.ts'

export interface Tile {
  readonly name: string
  readonly value: string
  readonly unit?: string
  readonly note?: string | undefined
}

export interface Page {
  readonly title: string
  /** Under the title; a sentence. */
  readonly lead: string
  /** In words, and whether it is good. */
  readonly state?: { readonly text: string; readonly good: boolean } | undefined
  readonly tiles: readonly Tile[]
  readonly cards: readonly Markup[]
  /** For programs: everything that is shown, and more. */
  readonly data: unknown
}

/** A table: rows of plain text, the first column to the left, figures to the right. */
export interface PlainTable {
  readonly columns: readonly string[]
  readonly rows: readonly (readonly string[])[]
  /** Columns of sentences, by index: they stand to the left and wrap. */
  readonly words?: readonly number[]
}

/** Nothing may be fetched or run, whatever should have slipped into the text. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'"

export function renderPage({ title, lead, state, tiles, cards, data }: Page): string {
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<title>${title}</title>
<style>${new Markup(STYLES)}</style>
</head>
<body>
<main>
<header>
${state && html`<p class="state ${state.good ? 'completed' : 'failed'}">${state.text}</p>`}
<h1>${title}</h1>
<p class="lead">${lead}</p>
</header>
<dl class="tiles">
${tiles.map(tile)}</dl>
<div class="cards">
${cards}</div>
<footer>Written by multifd. The data of this page are in it as JSON: the script element with the
id “data”.</footer>
</main>
${embeddedJson('data', data)}
</body>
</html>
`
  return page.text
}

function tile({ name, value, unit, note }: Tile): Markup {
  return html`<div class="tile"><dt>${name}</dt><dd class="value">${value}${
    unit && html` <span class="unit">${unit}</span>`
  }</dd>${note && html`<dd class="note">${note}</dd>`}</div>
`
}

export interface Picture {
  readonly title: string
  /** What is to be seen, in a sentence or two: the picture's text alternative. */
  readonly caption: string
  readonly plot: Markup
  readonly key?: readonly { readonly colour: string; readonly text: string }[]
  /** The same in figures. */
  readonly table: PlainTable
  /** Half the page's width where it is wide. */
  readonly half?: boolean
}

/** A card with a plot, what it shows in words, and its figures behind a fold. */
export function picture({ title, caption, plot, key = [], table, half }: Picture): Markup {
  const entries = key.map(
    ({ colour, text }) =>
      html`<li><span class="swatch" style="background:${colour}"></span>${text}</li>`,
  )
  return html`<section${half ? html` class="half"` : ''}><h2>${title}</h2>
<figure><figcaption>${caption}</figcaption>
${plot}
${entries.length > 0 ? html`<ul class="key">${entries}</ul>` : ''}
</figure>
<details><summary>In figures</summary>${tableOf(table)}</details>
</section>
`
}

export function card(title: string, ...content: readonly Content[]): Markup {
  return html`<section><h2>${title}</h2>${content}</section>
`
}

export function tableOf({ columns, rows, words = [] }: PlainTable): Markup {
  const kind = (column: number): Content => (words.includes(column) ? html` class="words"` : '')
  const head = columns.map((text, i) => html`<th scope="col"${kind(i)}>${text}</th>`)
  const body = rows.map(
    (row) => html`<tr>${row.map((text, i) => html`<td${kind(i)}>${text}</td>`)}</tr>
`,
  )
  // Reachable by keyboard, as it may be wider than the screen.
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>
<thead><tr>${head}</tr></thead><tbody>
${body}</tbody></table></div>`
}

/** Names and values in columns. */
export function factsOf(facts: readonly (readonly [name: string, value: string])[]): Markup {
  const pairs = facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)
  return html`<dl class="facts">${pairs}</dl>`
}

export function notesOf(notes: readonly string[]): Markup {
  return html`<ul class="notes">${notes.map((note) => html`<li>${note}</li>`)}</ul>`
}
