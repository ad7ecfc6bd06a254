/** Limits of a queue as a worker is given them. `Worker.ts` exports the types. */
import * as Duration from "effect/Duration"
import type * as Broker from "../Broker.ts"

/** A token bucket: at most `limit` starts in `per`, and at most `burst` at once. */
export interface Rate {
  readonly limit: number
  readonly per: Duration.Input
  /** Default: `limit`. */
  readonly burst?: number | undefined
}

/** Limits that hold over all workers together. */
export interface Limits {
  /** The most tasks of the queue that are claimed at once. */
  readonly concurrency?: number | undefined
  readonly rate?: Rate | undefined
  /** The same for each concurrency key of the queue. Tasks without a key have no such limit. */
  readonly perKey?: { readonly concurrency?: number | undefined; readonly rate?: Rate | undefined } | undefined
}

/** Options are constants of a program, so a bad one is a defect of it. */
export const count = (option: string, value: number): number => {
  if (!Number.isInteger(value) || value < 1) {
    throw new Error(`Worker.layer: ${option} is a whole number of at least 1 (found ${value})`)
  }
  return value
}

const rate = (option: string, { burst, limit, per }: Rate): Broker.Rate => {
  const millis = Duration.toMillis(Duration.fromInputUnsafe(per))
  if (!(millis > 0 && Number.isFinite(millis))) {
    throw new Error(`Worker.layer: ${option}.per is a finite duration of more than 0`)
  }
  return {
    limit: count(`${option}.limit`, limit),
    per: millis,
    ...(burst === undefined ? {} : { burst: count(`${option}.burst`, burst) })
  }
}

const both = (option: string, limits: NonNullable<Limits["perKey"]>) => ({
  ...(limits.concurrency === undefined ? {} : { concurrency: count(`${option}.concurrency`, limits.concurrency) }),
  ...(limits.rate === undefined ? {} : { rate: rate(`${option}.rate`, limits.rate) })
})

/** Checks limits, and gives them as the broker takes them. */
export const limitsOf = (option: string, limits: Limits): Broker.Limits => ({
  ...both(option, limits),
  ...(limits.perKey === undefined ? {} : { perKey: both(`${option}.perKey`, limits.perKey) })
})
