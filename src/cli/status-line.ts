// One line at the bottom of a terminal that is written over, for progress; nothing where stderr is
// no terminal. And the words for amounts in it.

import { clearLine, cursorTo } from 'node:readline'

export class StatusLine {
  readonly #stream: NodeJS.WriteStream

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.#stream = stream
  }

  show(text: string): void {
    if (!this.#stream.isTTY) return
    cursorTo(this.#stream, 0)
    this.#stream.write(text.slice(0, this.#stream.columns - 1)) // a line that wraps stays behind
    clearLine(this.#stream, 1)
  }

  /** Takes the line away: what is printed next stands in its place. */
  clear(): void {
    if (!this.#stream.isTTY) return
    cursorTo(this.#stream, 0)
    clearLine(this.#stream, 1)
  }
}

export function formatSeconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`
}
