// Folders that are gone afterwards: when they are removed, when this process exits, and, should it
// be killed outright, when the next one is made. They hold what a QEMU needs while it runs.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

// multifd-qemu-<pid>-<when that process started>-<random>: a process id alone is used again.
const NAME = /^multifd-qemu-(\d+)-(\d+)-/

const living = new Set<ScratchFolder>()

export class ScratchFolder {
  /** Short: a UNIX socket's path has at most 107 characters. */
  readonly path: string

  /** In the system's folder for temporary files, unless told where. */
  constructor(parent = tmpdir()) {
    removeStale(parent)
    const owner = `${process.pid}-${startedAt(process.pid)}`
    this.path = mkdtempSync(join(parent, `multifd-qemu-${owner}-`))
    if (living.size === 0) process.on('exit', removeAll)
    living.add(this)
  }

  /** A path in it. */
  file(name: string): string {
    return join(this.path, name)
  }

  /** Removes it with all it holds; a second call does nothing. */
  remove(): void {
    if (!living.delete(this)) return
    rmSync(this.path, { recursive: true, force: true })
    if (living.size === 0) process.off('exit', removeAll)
  }
}

function removeAll(): void {
  for (const folder of living) folder.remove()
}

function removeStale(parent: string): void {
  for (const name of readdirSync(parent)) {
    const [, pid, started] = NAME.exec(name) ?? []
    if (pid === undefined || startedAt(Number(pid)) === started) continue
    rmSync(join(parent, name), { recursive: true, force: true })
  }
}

// Clock ticks from boot to the start of the process (field 22 of its stat; the name in field 2 may
// hold anything); undefined when there is none.
function startedAt(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch {
    return undefined
  }
}
