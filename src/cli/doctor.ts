// `multifd doctor`: what this machine can do for a migration, and what to change. Facts are
// collected (collect.ts), judged (judge.ts) and printed (report.ts); this file joins the three.

import { type CommandDeclaration, EXIT_FAILED } from './command.ts'
import { collectFacts } from './doctor/collect.ts'
import { judge } from './doctor/judge.ts'
import { jsonReport, textReport } from './doctor/report.ts'

const EXPLANATION = `
Tries what a migration needs: io_uring, tracking of guest writes, and zero-copy on each network
interface that is up and has an address. For the last, one datagram of zeros goes out on each of
them, to the discard port of all hosts on the link; --no-probe sends none. Nothing is changed.

Exit codes: 0 a migration works here (warnings included), 1 it does not, 2 wrong usage.`

export const doctor: CommandDeclaration = {
  name: 'doctor',
  description: 'Shows what this machine can do for a migration, and what to change.',
  declare(command, ended) {
    command
      .option('--json', 'print one JSON object instead of text')
      .option('--no-probe', 'send no datagrams: do not try zero-copy on the network interfaces')
      .addHelpText('after', EXPLANATION)
      .action(async ({ json = false, probe }: { json?: boolean; probe: boolean }) => {
        const diagnosis = judge(await collectFacts({ probePaths: probe }))
        const { stdout } = process
        const colour = stdout.isTTY && !process.env.NO_COLOR && process.env.TERM !== 'dumb'
        const columns = stdout.isTTY ? stdout.columns : undefined
        stdout.write(json ? jsonReport(diagnosis) : textReport(diagnosis, { colour, columns }))
        if (!diagnosis.canMigrate) ended(EXIT_FAILED)
      })
  },
}
