import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { start } from "../support/worker.ts"
import { Echo } from "./tasks.ts"

const sessions =
  `select pid from pg_stat_activity where datname = current_database() and query ilike 'listen%' order by pid`

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("the session connection", (it) => {
  it.effect("is opened again after pg_terminate_backend; tasks that another process sends meanwhile all run", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const listening = sql.unsafe<{ readonly pid: number }>(sessions)
      const ours = yield* Effect.repeat(listening, {
        until: (rows) => rows.length === 1,
        schedule: Schedule.spaced("10 millis")
      })
      // Another process, as far as wake-ups are concerned: only its NOTIFY can wake our worker.
      const other = Context.get(
        yield* Layer.build(Layer.fresh(PostgresBroker.layerSqlClient())),
        Broker
      )
      const send = (text: string) => Echo.send({ text }).pipe(Effect.provideService(Broker, other))

      const started = new Map<string, number>()
      const all = yield* Deferred.make<void>()
      yield* start(Echo.toLayer(({ text }) =>
        Effect.gen(function*() {
          started.set(text, performance.now())
          if (started.size === 60) yield* Deferred.succeed(all, undefined)
          return text
        })
      ))
      for (let i = 0; i < 30; i++) yield* send(`before ${i}`)
      yield* sql`select pg_terminate_backend(${ours[0]!.pid})`
      for (let i = 0; i < 30; i++) yield* send(`after ${i}`)
      yield* Effect.repeat(listening, {
        until: (rows) => rows.length === 1 && rows[0]?.pid !== ours[0]!.pid,
        schedule: Schedule.spaced("5 millis")
      }).pipe(Effect.timeout("5 seconds"))
      const reconnected = performance.now()

      yield* Deferred.await(all).pipe(Effect.timeout("10 seconds"))
      assert.isBelow(Math.max(...started.values()) - reconnected, 1000)
    }))
})
