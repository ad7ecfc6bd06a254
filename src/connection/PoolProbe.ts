/** Probes the pool with a statement that has a deadline, and keeps the state of what it finds. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import type * as SubscriptionRef from "effect/SubscriptionRef"
import type { BrokerError } from "../Broker.ts"
import * as ConnectionState from "./ConnectionState.ts"
import { monotonic, realClock, StatementDeadline } from "./Deadlines.ts"
import { brokerFailure } from "./failure.ts"

/** Time between probes while the pool is well, and while it is not. */
const interval = Duration.seconds(10)
const impatient = Duration.seconds(1)

/** How long a probe may take. */
const deadline = Duration.seconds(5)

/** Probes until the scope closes. The state is `connecting` until the first probe has ended. */
export const make: Effect.Effect<
  SubscriptionRef.SubscriptionRef<ConnectionState.ConnectionState>,
  never,
  SqlClient | Scope.Scope
> = Effect.gen(function*() {
  const sql = yield* SqlClient
  const state = yield* ConnectionState.make("pool")
  const ask: Effect.Effect<unknown, BrokerError> = brokerFailure(sql.unsafe("select 1").values)
  const probe = Effect.suspend(() => {
    const startedAt = monotonic()
    return Effect.matchEffect(Effect.provideService(ask, StatementDeadline, deadline), {
      onSuccess: () =>
        Effect.as(Effect.suspend(() => state.connected(Duration.millis(monotonic() - startedAt))), interval),
      // A pool that is busy, or a server that is, is there.
      onFailure: (error) =>
        error.reason._tag === "Overloaded"
          ? Effect.as(state.connected(), interval)
          : Effect.as(state.lost(error.reason.message), impatient)
    })
  })
  yield* Effect.addFinalizer(() => state.closed)
  yield* Effect.forever(Effect.flatMap(probe, Effect.sleep)).pipe(
    Effect.withTracerEnabled(false),
    Effect.provideService(Clock.Clock, realClock),
    Effect.forkScoped
  )
  return state.ref
})
