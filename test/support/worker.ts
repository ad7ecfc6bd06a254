/** Parts of the tests that run workers, in real time. */
import type { Vitest } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker, type BrokerError, type NewTask, type TaskRecord } from "../../src/Broker.ts"
import { type Handlers, makeId } from "../../src/Task.ts"
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

/** Starts a worker in a scope of its own, and gives that scope. */
export const startIn = Effect.fnUntraced(
  function*<R>(handlers: Layer.Layer<never, never, Handlers | R>, options = quick) {
    const scope = yield* Scope.fork(yield* Effect.scope)
    yield* Scope.provide(start(handlers, options), scope)
    return scope
  }
)

/** Looks up a task that must be there. */
export const record = (id: string): Effect.Effect<TaskRecord, never, Broker> =>
  Effect.orDie(Effect.flatMap(Broker.use((broker) => broker.find(id)), Effect.fromOption))

/** How each attempt of a task has ended. */
export const outcomes = (id: string) => Effect.map(record(id), ({ history }) => history.map(({ outcome }) => outcome))

/** Sends a task as some other program has written it. */
export const sendRaw = Effect.fnUntraced(
  function*(task: Partial<NewTask> & { readonly name: string; readonly payload: string }) {
    const id = yield* makeId
    yield* Broker.use((broker) =>
      broker.send([{ id, queue: "default", version: 1, priority: 100, due: { after: 0 }, maxLosses: 3, ...task }])
    )
    return id
  }
)

/** The tests of one part of what a worker does are a function of this. */
export type It = Vitest.MethodsNonLive<Broker>

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
