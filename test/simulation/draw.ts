// Drawing by lot: everything that is random in a simulation comes from the generator of its seed.

import { randomNumbers } from '../support/pages.ts'

export class Lots {
  readonly #random: () => number

  constructor(seed: number) {
    this.#random = randomNumbers(seed)
  }

  /** True in so many of 1. */
  chance(share: number): boolean {
    return this.#random() < share
  }

  /** From min up to max. */
  between(min: number, max: number): number {
    return min + this.#random() * (max - min)
  }

  /** A whole number, both ends included. */
  whole(min: number, max: number): number {
    return Math.floor(this.between(min, max + 1))
  }

  /** A whole number over orders of magnitude. */
  spread(min: number, max: number): number {
    return Math.round(Math.exp(this.between(Math.log(min), Math.log(max))))
  }

  oneOf<T>(choices: readonly T[]): T {
    return choices[this.whole(0, choices.length - 1)] as T
  }
}
