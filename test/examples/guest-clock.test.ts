// The guest's clock stands still while held and goes on from there, whatever the host's clock did
// meanwhile.
import { expect, test } from 'vitest'
import { GuestClock } from '../../examples/v86/guest-clock.ts'

test('a held clock stands still and goes on from its value', () => {
  let host = 100
  const clock = new GuestClock(() => host)
  host = 150
  expect(clock.now()).toBe(100)
  clock.release()
  host = 157
  expect(clock.now()).toBe(107)
  clock.hold()
  host = 900
  expect(clock.now()).toBe(107)
  clock.release()
  clock.release()
  host = 901
  expect(clock.now()).toBe(108)
})

test('a clock goes on from the value another one had, on a host whose clock is behind or ahead', () => {
  for (const start of [0, 1e9]) {
    let host = start
    const clock = new GuestClock(() => host)
    clock.hold(5000)
    host += 77
    clock.release()
    expect(clock.now()).toBe(5000)
    host += 3
    expect(clock.now()).toBe(5003)
  }
})
