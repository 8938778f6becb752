// The arithmetic and the order of turns behind every figure.
import { expect, test } from 'vitest'
import { alternate, median, pairedRatio, ratioOf, type Turn, turnName } from '../../bench/run.ts'

const signal = new AbortController().signal

test('contestants take turns, and the warm-up turn does not count', async () => {
  const order: string[] = []
  const take = (name: string) => async (turn: Turn) => {
    order.push(`${name}${turn.index}${turn.warmUp ? 'w' : ''}`)
    return `${name}${turn.index}`
  }
  const results = await alternate({ a: take('a'), b: take('b') }, { turns: 2, signal })
  expect(order).toEqual(['a-1w', 'b-1w', 'a0', 'b0', 'a1', 'b1'])
  expect(results).toEqual({ a: ['a0', 'a1'], b: ['b0', 'b1'] })
})

test('without a warm-up every turn counts', async () => {
  const a = async (turn: Turn) => turn.index
  const results = await alternate({ a }, { turns: 2, signal, warmUp: false })
  expect(results).toEqual({ a: [0, 1] })
})

test('a contestant that fails ends the comparison with its error', async () => {
  let later = 0
  const failing = alternate(
    {
      a: async () => Promise.reject(new Error('the peer is gone')),
      b: async () => ++later,
    },
    { turns: 3, signal },
  )
  await expect(failing).rejects.toThrow('the peer is gone')
  expect(later).toBe(0)
})

test('an aborted signal starts no further turn', async () => {
  const stop = new AbortController()
  let taken = 0
  const turns = alternate(
    {
      a: async () => {
        if (++taken === 3) stop.abort(new Error('enough'))
      },
    },
    { turns: 100, signal: stop.signal },
  )
  await expect(turns).rejects.toThrow('enough')
  expect(taken).toBe(3)
})

test('the median is the middle value, or the mean of the two middle ones', () => {
  expect(median([9, 1, 5])).toBe(5)
  expect(median([9, 1, 5, 7])).toBe(6)
  expect(median([])).toBeNaN()
})

test('a paired ratio is taken within each turn', () => {
  // The machine was ten times slower in the second turn; the ratio does not notice.
  expect(pairedRatio([1, 10, 3], [2, 20, 3])).toEqual({
    median: 0.5,
    min: 0.5,
    max: 1,
    samples: [0.5, 0.5, 1],
  })
  expect(() => pairedRatio([1], [])).toThrow('1 results paired with 0')
})

test('a ratio shows its spread and every sample', () => {
  expect(ratioOf([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3, samples: [3, 1, 2] })
})

test('turns are named from 1', () => {
  expect(turnName({ index: -1, warmUp: true }, 9)).toBe('warm-up')
  expect(turnName({ index: 0, warmUp: false }, 9)).toBe('1/9')
})
