/** A token bucket. It is full until it has been used. */
import type { Rate } from "../Broker.ts"

/** What is lost when fractions of tokens are added up. */
const rounding = 1e-6

/** A burst below one would never let anything start. */
const burstOf = ({ burst, limit }: Rate) => Math.max(1, burst ?? limit)

export class Bucket {
  private tokens = Number.POSITIVE_INFINITY
  private filledAt = 0

  /** Brings the tokens up to date. Before the rate changes, what has gathered under the old one counts. */
  fill(rate: Rate, now: number) {
    this.tokens = Math.min(burstOf(rate), this.tokens + (now - this.filledAt) * rate.limit / rate.per)
    this.filledAt = now
  }

  /** Milliseconds until there is a token; 0 when there is one. */
  wait(rate: Rate, now: number): number {
    this.fill(rate, now)
    const missing = 1 - this.tokens
    return missing <= rounding ? 0 : Math.max(1, Math.ceil(missing * rate.per / rate.limit - rounding))
  }

  isFull(rate: Rate, now: number): boolean {
    this.fill(rate, now)
    return this.tokens > burstOf(rate) - rounding
  }

  take() {
    this.tokens -= 1
  }
}
