import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

// The machine has two noisy cores: time limits are generous and exist only to end a hang.
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/build-test-addon.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    // One more than cores, for a test mostly waits: for a QEMU, a time limit, another program. Left
    // to itself vitest takes one less, and two cores would run one file at a time.
    maxWorkers: availableParallelism() + 1,
  },
})
