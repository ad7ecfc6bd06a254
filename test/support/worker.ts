/** Parts of the tests that run workers over a real database, in real time. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import type { Broker, BrokerError } from "../../src/Broker.ts"
import type { Handlers } from "../../src/Task.ts"
import * as Worker from "../../src/Worker.ts"

/** Heartbeats of a second or less, so that a lost worker is noticed while the test waits. */
export const quick: Worker.Options = {
  heartbeatInterval: "500 millis",
  lease: "1500 millis",
  shutdownTimeout: "1 second"
}

/** Starts a worker of its own with these handlers; it stops with the scope. */
export const start = <R>(
  handlers: Layer.Layer<never, never, Handlers | R>,
  options: Worker.Options = quick
): Effect.Effect<void, BrokerError, Broker | Exclude<R, Handlers> | Scope.Scope> =>
  Effect.asVoid(Layer.build(Layer.fresh(Layer.provide(handlers, Worker.layer(options))))) as Effect.Effect<
    void,
    BrokerError,
    Broker | Exclude<R, Handlers> | Scope.Scope
  >

/** Looks at the database again and again until a statement returns a single true, for 15 seconds at most. */
export const until = (condition: string): Effect.Effect<void, never, SqlClient> =>
  Effect.gen(function*() {
    const sql = yield* SqlClient
    const look = Effect.map(sql.unsafe(condition).values, ([row]) => row?.[0] === true)
    yield* Effect.repeat(look, { until: (holds) => holds, schedule: Schedule.spaced("10 millis") })
  }).pipe(
    Effect.timeoutOrElse({
      duration: "15 seconds",
      orElse: () => Effect.die(new Error(`not within 15 seconds: ${condition}`))
    }),
    Effect.orDie,
    Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
  )
