// Starts a QEMU and ends as its first argument says, without ending the QEMU: for the test that
// nothing is left. A line on stdout names it.
import { QemuGuest } from '../../bench/qemu/guest.ts'

const guest = await QemuGuest.start({ paused: true })
const line = { event: 'ready', pid: guest.pid, folder: guest.folder }
process.stdout.write(`${JSON.stringify(line)}\n`, () => {
  if (process.argv[2] === 'exits') process.exit(0)
})
