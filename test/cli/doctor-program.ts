// The command line as a program of runRestricted: without arguments it does nothing.

if (process.argv.length > 2) await import('../../src/cli/main.ts')

export {}
