// What a command of the command line is. Adding one is a file that exports a CommandDeclaration and
// a line in main.ts.

import type { Command } from 'commander'

export const EXIT_FAILED = 1
export const EXIT_USAGE = 2

/** Of `--report`, which several commands have. */
export const REPORT_DESCRIPTION = 'write an HTML page about it to this file'

/** What went wrong beside the matter. */
export function warn(sentence: string): void {
  console.error(`multifd: warning: ${sentence}`)
}

export interface CommandDeclaration {
  readonly name: string
  /** A sentence for `multifd --help`. */
  readonly description: string
  /**
   * Adds options and the action. The action calls `ended` with an exit code other than 0; what it
   * throws is printed and ends with 1.
   */
  declare(command: Command, ended: (exitCode: number) => void): void
}
