/** Chance from a seed: the same seed gives the same numbers in every process. */

/** Gives a number from 0 up to, but not including, 1. */
export type Chance = () => number

const mask = 0xffff_ffff

/** Chance of one purpose: streams of different names have nothing to do with each other. */
export const chance = (seed: number, name: string): Chance => {
  let state = seed | 0
  for (let i = 0; i < name.length; i++) state = Math.imul(state ^ name.charCodeAt(i), 0x0100_0193)
  return () => {
    state = (state + 0x6d2b_79f5) & mask
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A whole number from `least` to `most`. */
export const whole = (chance: Chance, least: number, most: number): number =>
  least + Math.floor(chance() * (most - least + 1))

/** One of several. */
export const one = <A>(chance: Chance, of: readonly [A, ...ReadonlyArray<A>]): A =>
  of[Math.floor(chance() * of.length)] ?? of[0]
