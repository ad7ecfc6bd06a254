/**
 * How many claims a rate allows: at most, from what was claimed since it was set; at least, from an empty bucket at that
 * time. What lies between the two is the broker's own affair.
 */
import type { Rate } from "../../Broker.ts"

/** What is lost when fractions of tokens are added up. */
const rounding = 1e-3

export class Tokens {
  private readonly rate: Rate | undefined
  private tokens: number
  private filledAt: number
  private claims: Array<number> = []

  /** A bucket that was never used is full. */
  constructor(rate: Rate | undefined, now: number, tokens?: number) {
    this.rate = rate
    this.tokens = tokens ?? this.burst
    this.filledAt = now
  }

  private get burst(): number {
    return this.rate === undefined ? Number.POSITIVE_INFINITY : Math.max(1, this.rate.burst ?? this.rate.limit)
  }

  /** The same bucket under another rate. Nobody says what is left in it. */
  changed(rate: Rate | undefined, now: number): Tokens {
    return new Tokens(rate, now, 0)
  }

  take(now: number) {
    this.claims.push(now)
    this.tokens = Math.max(0, this.atLeast(now) - 1)
    this.filledAt = now
  }

  /** As many tasks as can be claimed now, whatever was left when the rate was set. */
  atLeast(now: number): number {
    if (this.rate === undefined) return Number.POSITIVE_INFINITY
    return Math.min(this.burst, this.tokens + (now - this.filledAt) * this.rate.limit / this.rate.per)
  }

  get surely(): (now: number) => number {
    return (now) => Math.floor(this.atLeast(now) - rounding)
  }

  /** Whether more was claimed in some stretch of time than the rate allows. */
  get isExceeded(): boolean {
    const { claims, rate } = this
    if (rate === undefined || claims.length === 0) return false
    const last = claims.at(-1)!
    return claims.some((at, i) => claims.length - i > this.burst + (last - at) * rate.limit / rate.per + rounding)
  }
}
