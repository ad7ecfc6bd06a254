/** Connections that were opened under load are closed again when it is gone. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import * as PooledSql from "../../src/connection/PooledSql.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as proxied from "./proxied.ts"

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("the general pool", (it) => {
  it.effect(
    "is 15 at most with the defaults, whoever calls, and 5 again within 60 seconds",
    () =>
      Effect.gen(function*() {
        const { applicationName, options } = yield* proxied.make()
        const { sql, stats } = yield* proxied.poolOf(options)
        const done = yield* Deferred.make<void>()
        const most = yield* Effect.forkChild(Effect.gen(function*() {
          let most = 0
          while (!(yield* Deferred.isDone(done))) most = Math.max(most, yield* proxied.sessions(applicationName))
          return most
        }))
        yield* Effect.forEach(Array.from({ length: 500 }), () => sql`select pg_sleep(0.05)`, {
          concurrency: "unbounded",
          discard: true
        })
        yield* Deferred.succeed(done, undefined)
        assert.strictEqual(yield* Fiber.join(most), 15)
        assert.deepStrictEqual(yield* stats, { size: 5, overflow: 10, open: 15, inUse: 0, waiting: 0 })

        const idle = Effect.map(proxied.sessions(applicationName), (count) => count <= 5)
        yield* proxied.until("the pool has closed its overflow", idle, "60 seconds")
        assert.strictEqual(yield* proxied.sessions(applicationName), 5)
        assert.strictEqual((yield* stats).open, 5)
      }),
    90_000
  )
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })(
  "the overflow is closed within 60 seconds",
  (it) => {
    it.effect("of a worker down to 3, of a child down to 0", () =>
      Effect.gen(function*() {
        const shrink = Effect.fnUntraced(function*(pool: typeof PooledSql.layer, most: number, least: number) {
          const { applicationName, options } = yield* proxied.make()
          const context = yield* Layer.build(Layer.fresh(Layer.provide(pool, PostgresConfig.layer(options))))
          const sql = Context.get(context, SqlClient)
          yield* Effect.forEach(Array.from({ length: 20 }), () => sql`select pg_sleep(0.05)`, {
            concurrency: "unbounded",
            discard: true
          })
          assert.strictEqual(yield* proxied.sessions(applicationName), most)
          const count = proxied.sessions(applicationName)
          yield* proxied.until("the overflow is closed", Effect.map(count, (count) => count <= least), "60 seconds")
          assert.strictEqual(yield* count, least)
        })
        yield* Effect.all([shrink(PooledSql.layerWorker, 5, 3), shrink(PooledSql.layerChild, 2, 0)], {
          concurrency: "unbounded"
        })
      }), 90_000)
  }
)
