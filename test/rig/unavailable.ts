// Prints why there can be no rig here, as a process sees it that is less well equipped than the
// test: without root, or without the programs. Its first argument says which.

import { Rig } from '../../bench/rig.ts'

if (process.argv[2] === 'unprivileged') process.setuid?.(65534)
if (process.argv[2] === 'without programs') process.env.PATH = '/nonexistent'
const answer = await Rig.unavailable().then(
  (reason) => ({ event: 'answer', reason: reason ?? '' }),
  (error: Error) => ({ event: 'answer', thrown: error.message }),
)
process.stdout.write(`${JSON.stringify(answer)}\n`)
