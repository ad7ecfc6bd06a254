/** Attempts that share one transaction with their completion. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import { type AttemptEnd, BrokerError, type Hold, type Outcome } from "../Broker.ts"
import { brokerFailure } from "../connection/failure.ts"
import { type Database, fromClient } from "./Database.ts"
import type { Finished } from "./finishing.ts"

/**
 * After how long the server ends a transaction that waits for a process that may be gone. Above any lease: as long as the
 * worker is believed alive, so is its transaction. One whose handler does something else for longer is kept up.
 */
const idleLimit = Duration.minutes(10)

const limitStatement = `select set_config('idle_in_transaction_session_timeout', $1, true)`

const keepUpStatement = "select 'the handler is busy elsewhere'"

/** Rolls the transaction back, with what the attempt came to. */
class RolledBack extends Schema.TaggedError<RolledBack>()("RolledBack", { end: Schema.Any }) {}

export const make = (options: {
  /** Its transactions are those of the application's client, so that whatever a handler uses joins them. */
  readonly client: SqlClient
  readonly schema: string
  readonly finish: (
    database: Database
  ) => (worker: string, attempt: Hold & { readonly end: AttemptEnd; readonly elapsed: number }) => Effect.Effect<
    Finished,
    BrokerError
  >
  readonly ended: (hold: Hold, outcome: Outcome) => Effect.Effect<void>
  /** Default: 10 minutes. */
  readonly idleLimit?: Duration.Duration
}) => {
  const limit = Duration.toMillis(options.idleLimit ?? idleLimit)
  const database = fromClient(options.client, options.schema)
  const finish = options.finish(database)

  /** If the transaction is gone, its handler will notice. */
  const keepUp = Effect.forever(Effect.andThen(
    Effect.sleep(Duration.millis(limit / 3)),
    // Nothing that has been asked is taken back: the same connection is about to commit.
    Effect.uninterruptible(Effect.ignore(database.run(keepUpStatement, [])))
  ))

  return <R>(
    worker: string,
    hold: Hold,
    attempt: Effect.Effect<{ readonly end: AttemptEnd; readonly elapsed: number }, never, R>
  ): Effect.Effect<{ readonly end: AttemptEnd; readonly settled: boolean }, BrokerError, R> => {
    const inside = Effect.gen(function*() {
      yield* database.run(limitStatement, [`${limit}ms`])
      const keeping = yield* Effect.forkChild(keepUp)
      const { elapsed, end } = yield* Effect.ensuring(attempt, Fiber.interrupt(keeping))
      if (end._tag !== "Completed") return yield* new RolledBack({ end })
      const { accepted } = yield* finish(worker, { ...hold, end, elapsed })
      // Somebody else has the task now: what this attempt did in the database is not to be.
      if (!accepted.has(hold.id)) return yield* new RolledBack({ end: undefined })
      return end
    })
    return brokerFailure(options.client.withTransaction(inside)).pipe(
      Effect.matchEffect({
        onSuccess: (end) => Effect.as(options.ended(hold, end), { end: end as AttemptEnd, settled: true }),
        onFailure: (error) =>
          error instanceof BrokerError
            ? Effect.fail(error)
            : Effect.succeed({
              end: (error.end ?? { _tag: "Interrupted", why: "LeaseLost" }) as AttemptEnd,
              settled: error.end === undefined
            })
      })
    )
  }
}
