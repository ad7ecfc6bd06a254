import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { SqlClient } from "effect/sql/SqlClient"
import * as TestBroker from "../support/TestBroker.ts"
import { start } from "../support/worker.ts"
import { Echo } from "./tasks.ts"

const listening = `select pid from pg_stat_activity where datname = current_database() and query like 'LISTEN%'`

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("the session connection", (it) => {
  it.effect("is opened again after pg_terminate_backend; tasks that another process sends meanwhile all run", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const started = new Map<string, number>()
      const all = yield* Deferred.make<void>()
      yield* start(Echo.toLayer(({ text }) =>
        Effect.gen(function*() {
          started.set(text, performance.now())
          if (started.size === 60) yield* Deferred.succeed(all, undefined)
          return text
        })
      ))
      // Rows put in by hand, as another process would, without this process knowing: only the session's events tell.
      const insert = (text: string) =>
        sql`insert into horsies_tasks (id, queue, name, due, priority, run_at, sent_at, payload)
          values (gen_random_uuid(), 'default', 'Echo', true, 100, now(), now(), ${JSON.stringify({ text })}::json)`

      for (let i = 0; i < 30; i++) yield* insert(`before ${i}`)
      const [session] = yield* Effect.repeat(sql.unsafe<{ readonly pid: number }>(listening), {
        until: (rows) => rows.length === 1,
        schedule: Schedule.spaced("10 millis")
      })
      const pid = session!.pid
      yield* sql`select pg_terminate_backend(${pid})`
      for (let i = 0; i < 30; i++) yield* insert(`after ${i}`)
      yield* Effect.repeat(sql.unsafe<{ readonly pid: number }>(listening), {
        until: (rows) => rows.length === 1 && rows[0]?.pid !== pid,
        schedule: Schedule.spaced("5 millis")
      }).pipe(Effect.timeout("5 seconds"))
      const reconnected = performance.now()

      yield* Deferred.await(all).pipe(Effect.timeout("10 seconds"))
      assert.isBelow(Math.max(...started.values()) - reconnected, 1000)
    }))
})
