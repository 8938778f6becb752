// A relay in a worker thread, for the test that ends the worker in the middle: says where it
// listens, then every status, and when nothing moves any more.

import { parentPort, workerData } from 'node:worker_threads'
import { relay } from '../../src/relay/relay.ts'

const { to } = workerData as { to: string }
const passing = relay('tcp:127.0.0.1:0', to)
parentPort?.postMessage(await passing.listening)
let seen = -1
for await (const { status, receivedBytes } of passing) {
  parentPort?.postMessage(status)
  if (status === 'active' && receivedBytes === seen) parentPort?.postMessage('standing')
  seen = receivedBytes
}
