/** Asking the broker from a loop that must not end. */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type * as Result from "effect/Result"
import { BrokerError, Refused } from "../Broker.ts"

/** What became of a request. A defect of the broker is one more failure: a worker whose loop had died would hang. */
export const attempt = <A>(request: Effect.Effect<A, BrokerError>): Effect.Effect<Result.Result<A, BrokerError>> =>
  request.pipe(
    Effect.catchDefect((defect) =>
      Effect.fail(new BrokerError({ reason: new Refused({ message: Cause.pretty(Cause.die(defect)), cause: defect }) }))
    ),
    Effect.result
  )

/** A request that is not tried again: its failure is logged. */
export const attemptOnce = (request: Effect.Effect<void, BrokerError>, otherwise: string): Effect.Effect<boolean> =>
  Effect.flatMap(attempt(request), (result) =>
    result._tag === "Success" ? Effect.succeed(true) : Effect.as(
      Effect.annotateLogs(Effect.logWarning(otherwise), result.failure.annotations),
      false
    ))

/** The delay before another try: full jitter below a doubling bound. */
export const backoff = (failures: number): Effect.Effect<Duration.Duration> =>
  Effect.map(
    Random.next,
    (random) => Duration.millis(Math.round(random * Math.min(5000, 100 * 2 ** Math.min(failures, 10))))
  )
