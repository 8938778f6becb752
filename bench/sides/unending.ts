// Devices that are never done: whenever they have a turn they fill it. Both sides make them, the
// destination to have somewhere to put what comes.
import type { SaveStateHandler } from '../../src/index.ts'

const PENDING_BYTES = 64 * 2 ** 20
const STATE = new Uint8Array(2 ** 20)

/** @param sent hears of each turn of the device with this number, and what it gave */
export function unendingDevices(
  count: number,
  sent: (device: number, bytes: number) => void = () => {},
): SaveStateHandler[] {
  return Array.from({ length: count }, (_, device) => ({
    idstr: 'unending',
    instanceId: device,
    pendingEstimate: () => PENDING_BYTES,
    iterate: (budgetBytes) => {
      const bytes = Math.min(budgetBytes, STATE.length)
      sent(device, bytes)
      return STATE.subarray(0, bytes)
    },
    complete: () => new Uint8Array(0),
    load: () => {},
  }))
}
