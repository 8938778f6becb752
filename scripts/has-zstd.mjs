// For binding.gyp: prints 1 if a program with zstd compiles and links here, else 0.
import { spawnSync } from 'node:child_process'

const program = '#include <zstd.h>\nint main() { return ZSTD_versionNumber() == 0; }\n'
const { status } = spawnSync(
  process.env.CXX || 'g++',
  ['-x', 'c++', '-', '-o', '/dev/null', '-lzstd'],
  { input: program, stdio: ['pipe', 'ignore', 'ignore'] },
)
console.log(status === 0 ? 1 : 0)
