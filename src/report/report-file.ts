// Where a report goes. The file is opened before anything begins: a path that is not to be written
// is refused while it costs nothing. What the file held is lost only when the report replaces it.

import { type FileHandle, open } from 'node:fs/promises'

export class ReportFile implements AsyncDisposable {
  readonly path: string
  readonly #file: FileHandle

  private constructor(path: string, file: FileHandle) {
    this.path = path
    this.#file = file
  }

  /** @throws RangeError, as for any option: the path is not one that can be written. */
  static async open(path: string): Promise<ReportFile> {
    try {
      return new ReportFile(path, await open(path, 'a'))
    } catch (cause) {
      const why = (cause as { code?: string }).code ?? String(cause)
      throw new RangeError(
        `the report ${path} cannot be written (${why}): expected a file in a directory that exists ` +
          'and may be written',
        { cause },
      )
    }
  }

  async write(page: string): Promise<void> {
    await this.#file.truncate()
    await this.#file.writeFile(page)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close()
  }
}
