/** Transactional handlers have connections of their own: however long they take, everything else goes on. */
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Task from "../../src/Task.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { start } from "../support/worker.ts"

class Pay extends Task.make("Pay", { payload: { n: Schema.Int }, queue: "payments" }) {}
class Plain extends Task.make("Plain", { payload: { n: Schema.Int }, success: Schema.Int }) {}

/** A repository as applications have them: it takes its client when it is made, long before any task runs. */
const write = (sql: SqlClient) => (n: number) => Effect.orDie(sql`insert into payments values (${n})`)

const onePooled = PostgresBroker.layer.pipe(
  Layer.provide(
    Layer.unwrap(
      Effect.map(
        TestDatabase,
        ({ url }) => PostgresConfig.layer({ databaseUrl: url, poolSize: 1, maxOverflow: 1, transactionalPoolSize: 5 })
      )
    )
  ),
  Layer.provideMerge(TestDatabase.layer)
)

layer(onePooled, { excludeTestServices: true, timeout: "30 seconds" })("transactional handlers", (it) => {
  it.effect("leave the pool to everything else, and what a handler's services do is part of its transaction", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* sql`create table payments (n integer)`
      const pay = write(sql)
      const go = yield* Deferred.make<void>()
      let begun = 0
      const all = yield* Deferred.make<void>()
      yield* start(
        Layer.mergeAll(
          Layer.orDie(Pay.toLayer(({ n }) =>
            pay(n).pipe(
              Effect.andThen(Effect.suspend(() => ++begun === 5 ? Deferred.succeed(all, undefined) : Effect.void)),
              Effect.andThen(Deferred.await(go)),
              Effect.andThen(n === 5 ? Effect.die("refused") : Effect.void)
            ), { transaction: true })),
          Plain.toLayer(({ n }) => Effect.succeed(n))
        )
      )
      const payments = yield* Effect.forEach([1, 2, 3, 4, 5], (n) => Pay.send({ n }))
      // Five transactions are open, on more connections than the pool has, and other tasks are sent, run and recorded.
      yield* Deferred.await(all)
      const handles = yield* Effect.forEach(Array.from({ length: 50 }, (_, n) => n), (n) => Plain.send({ n }), {
        concurrency: 10
      })
      yield* Effect.forEach(handles, (handle) => handle.await, { concurrency: "unbounded" })
      assert.deepStrictEqual(yield* sql`select n from payments`, [])
      yield* Deferred.succeed(go, undefined)
      yield* Effect.forEach(payments, (handle) => Effect.exit(handle.await))
      assert.deepStrictEqual(yield* sql`select n from payments order by n`, [1, 2, 3, 4].map((n) => ({ n })))
    }))
})
