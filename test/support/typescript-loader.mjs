// `node --import` of this file runs the .ts sources in child processes and worker threads of tests,
// where vitest does not transpile them.
import { register } from 'node:module'

register('./typescript-hooks.mjs', import.meta.url)
