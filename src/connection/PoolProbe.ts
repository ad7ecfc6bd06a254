/** Probes the pool with a statement that has a deadline, and keeps the state of what it finds. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import type * as SubscriptionRef from "effect/SubscriptionRef"
import type { BrokerError } from "../Broker.ts"
import { monotonic, realClock } from "./clock.ts"
import * as ConnectionState from "./ConnectionState.ts"
import { StatementDeadline } from "./Deadlines.ts"
import { brokerFailure } from "./failure.ts"
import { PoolStats } from "./PooledSql.ts"

/** Time between probes while the pool is not well. */
const impatient = Duration.seconds(1)

/** The least time between probes, however many statements fail. */
const least = Duration.millis(100)

/**
 * Probes until the scope closes: from time to time, and at once when a statement fails because the server is away. The
 * state is `connecting` until the first probe has ended.
 */
export const make: Effect.Effect<
  SubscriptionRef.SubscriptionRef<ConnectionState.ConnectionState>,
  never,
  SqlClient | PoolStats | Scope.Scope
> = Effect.gen(function*() {
  const sql = yield* SqlClient
  const pool = yield* PoolStats
  const deadline = pool.probeDeadline
  const state = yield* ConnectionState.make({
    connection: "pool",
    application: pool.applicationName,
    pool: pool.profile
  })
  const ask: Effect.Effect<unknown, BrokerError> = brokerFailure(sql.unsafe("select 1").values)

  const unanswered = Effect.flatMap(pool.get, ({ inUse, overflow, size }) =>
    // Whoever has all of its connections will find out about them.
    inUse >= size + overflow
      ? Effect.void
      : state.lost(`the pool does not answer within ${Duration.format(deadline)}`))

  const probe = Effect.gen(function*() {
    const trouble = yield* pool.trouble
    const startedAt = monotonic()
    const result = yield* Effect.provideService(ask, StatementDeadline, deadline).pipe(
      Effect.result,
      // The deadline of the statement does not bound the wait for its connection.
      Effect.timeoutOption(deadline)
    )
    if (Option.isNone(result)) return yield* Effect.andThen(unanswered, Effect.sleep(impatient))
    if (result.value._tag === "Failure") {
      const { reason } = result.value.failure
      // A pool that is busy, or a server that is, is there.
      yield* reason._tag === "Overloaded" ? state.connected() : state.lost(reason.message)
      return yield* Effect.sleep(impatient)
    }
    yield* state.connected(Duration.millis(monotonic() - startedAt))
    yield* Effect.sleep(least)
    yield* Effect.raceFirst(Effect.sleep(pool.probeInterval), trouble)
  })

  yield* Effect.addFinalizer(() => state.closed)
  yield* Effect.forever(probe).pipe(
    Effect.withTracerEnabled(false),
    Effect.provideService(Clock.Clock, realClock),
    Effect.forkScoped
  )
  return state.ref
})
