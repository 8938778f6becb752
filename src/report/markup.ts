// Markup that cannot be forgotten to be escaped: the `html` tag escapes every value but markup.
// Names of devices, errors of peers and titles are strangers' text. Pure.

/** Text that is markup already. Only this file and the plots make it from strings. */
export class Markup {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

export type Content = Markup | string | number | undefined | readonly Content[]

export function html(texts: TemplateStringsArray, ...values: readonly Content[]): Markup {
  const parts = texts.map((text, i) => text + (i < values.length ? render(values[i]) : ''))
  return new Markup(parts.join(''))
}

/** Data for programs, inside a page: nothing in it can end its element. */
export function embeddedJson(id: string, data: unknown): Markup {
  const text = JSON.stringify(data, plain).replaceAll('<', '\\u003c')
  return html`<script type="application/json" id="${id}">${new Markup(text)}</script>`
}

/** JSON has no infinity: the prediction before anything was measured. */
function plain(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isFinite(value) ? null : value
}

function render(content: Content): string {
  if (content === undefined) return ''
  if (content instanceof Markup) return content.text
  if (typeof content === 'object') return content.map(render).join('')
  return String(content)
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}
