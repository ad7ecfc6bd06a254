/**
 * The tries of a worker, and its waits between them. What its loops ask through it shows the others whether the broker can
 * be reached: nobody waits any longer once it has answered somebody.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type * as Result from "effect/Result"
import type { BrokerError } from "../Broker.ts"
import { attempt, backoff } from "./attempt.ts"

/** No wait is shorter, in milliseconds, unless chance has made it so: a broker may answer some requests and not others. */
const shortest = 50

export interface Backoff {
  /** What became of a request. */
  readonly attempt: <A>(request: Effect.Effect<A, BrokerError>) => Effect.Effect<Result.Result<A, BrokerError>>
  /** Waits before another try, after so many that have failed before this one. */
  readonly wait: (failures: number, error: BrokerError) => Effect.Effect<void>
}

export const make: Effect.Effect<Backoff> = Effect.map(Latch.make(true), (reachable): Backoff => ({
  attempt: (request) =>
    Effect.map(attempt(request), (result) => {
      if (result._tag === "Success") reachable.openUnsafe()
      else if (result.failure.reason._tag === "Unavailable") reachable.closeUnsafe()
      return result
    }),
  wait: Effect.fnUntraced(function*(failures, { reason }) {
    const delay = Duration.toMillis(yield* backoff(failures))
    // Who was refused, or asked a broker that has too much to do, learns nothing from the answers of others.
    const least = reason._tag === "Unavailable" ? Math.min(shortest, delay) : delay
    yield* Effect.sleep(Duration.millis(least))
    yield* Effect.raceFirst(Effect.sleep(Duration.millis(delay - least)), reachable.await)
  })
}))
