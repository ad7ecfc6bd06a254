/** The sizes of the pools, as the server sees them. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import * as PooledSql from "../../src/connection/PooledSql.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as proxied from "../faults/proxied.ts"
import { start } from "../support/worker.ts"
import { Echo } from "../worker/tasks.ts"

const build = Effect.fnUntraced(function*(pool: typeof PooledSql.layer, settings: proxied.Settings) {
  const { applicationName, options, proxy } = yield* proxied.make(settings)
  const context = yield* Layer.build(Layer.fresh(Layer.provide(pool, PostgresConfig.layer(options))))
  return { sql: Context.get(context, SqlClient), applicationName, proxy }
})

/** The connections that a pool keeps when it has just been built, and the most that it opens for many callers. */
const measure = Effect.fnUntraced(function*(pool: typeof PooledSql.layer, settings: proxied.Settings) {
  const { applicationName, sql } = yield* build(pool, settings)
  let kept = -1
  const settled = Effect.map(proxied.sessions(applicationName), (count) => {
    const same = count === kept
    kept = count
    return same
  })
  yield* proxied.until("the pool has as many as it keeps", Effect.delay(settled, "100 millis"))
  const calls = yield* Effect.forkChild(
    Effect.forEach(Array.from({ length: 40 }), () => sql`select pg_sleep(0.05)`, { concurrency: "unbounded" })
  )
  let most = 0
  while (calls.pollUnsafe() === undefined) most = Math.max(most, yield* proxied.sessions(applicationName))
  yield* Fiber.join(calls)
  return [kept, Math.max(most, yield* proxied.sessions(applicationName))]
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("the pools keep and open", (it) => {
  const cases: ReadonlyArray<readonly [string, typeof PooledSql.layer, proxied.Settings, readonly [number, number]]> = [
    ["general: 5 and 15", PooledSql.layer, {}, [5, 15]],
    ["general: poolSize", PooledSql.layer, { poolSize: 2 }, [2, 12]],
    ["general: maxOverflow", PooledSql.layer, { maxOverflow: 1 }, [5, 6]],
    ["general: no overflow", PooledSql.layer, { poolSize: 1, maxOverflow: 0 }, [1, 1]],
    ["worker: 3 and 5", PooledSql.layerWorker, {}, [3, 5]],
    ["worker: workerPoolSize, workerMaxOverflow", PooledSql.layerWorker, { workerPoolSize: 2, workerMaxOverflow: 4 }, [
      2,
      6
    ]],
    [
      "worker: null inherits",
      PooledSql.layerWorker,
      { poolSize: 4, maxOverflow: 3, workerPoolSize: null, workerMaxOverflow: null },
      [4, 7]
    ],
    ["child: nothing before the first statement, and 2", PooledSql.layerChild, {}, [0, 2]],
    [
      "child: workerChildPoolMinSize, workerChildPoolMaxSize",
      PooledSql.layerChild,
      { workerChildPoolMinSize: 1, workerChildPoolMaxSize: 3 },
      [1, 3]
    ]
  ]
  for (const [what, pool, settings, expected] of cases) {
    it.effect(what, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* measure(pool, settings), [...expected])
      }))
  }
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a child's pool", (it) => {
  for (const workerChildPoolCheck of [true, false]) {
    it.effect(`workerChildPoolCheck: ${workerChildPoolCheck}, whatever poolPrePing says`, () =>
      Effect.gen(function*() {
        const { applicationName, proxy, sql } = yield* build(PooledSql.layerChild, {
          ...proxied.alert,
          workerChildPoolCheck,
          poolPrePing: !workerChildPoolCheck,
          workerChildPoolMaxSize: 1
        })
        yield* sql`select 1`
        yield* proxied.idle(applicationName)
        yield* proxy.freeze()
        const { exit } = yield* proxied.timed(sql`select 1 as one`)
        assert.strictEqual(exit._tag, workerChildPoolCheck ? "Success" : "Failure")
      }))
  }
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a worker under load", (it) => {
  // Statements that are asked about, too.
  for (const { seconds, tasks } of [{ seconds: 0.01, tasks: 600 }, { seconds: 2.5, tasks: 20 }]) {
    it.effect(`never has more connections than its budget of 7: statements of ${seconds} s`, () =>
      Effect.gen(function*() {
        const { applicationName, options } = yield* proxied.make(proxied.alert)
        const config = PostgresConfig.layer(options)
        const context = yield* Layer.build(Layer.fresh(Layer.provideMerge(
          Layer.provide(PostgresBroker.layerWorker, config),
          config
        )))
        const sql = Context.get(context, SqlClient)
        const budget = PostgresConfig.connectionBudget(Context.get(context, PostgresConfig.PostgresConfig))
        const errors: Array<unknown> = []
        const slow = Effect.catch(
          sql`select pg_sleep(${seconds}::float8)`,
          (error) => Effect.sync(() => errors.push(error))
        )
        yield* start(Echo.toLayer(({ text }) => Effect.as(slow, text)), {
          concurrency: 50,
          heartbeatInterval: "200 millis",
          lease: "2 seconds"
        }).pipe(Effect.provideContext(Context.merge(yield* Effect.context<never>(), context) as typeof context))
        yield* Effect.provideContext(
          Echo.sendMany(Array.from({ length: tasks }, (_, i) => ({ text: String(i) }))),
          context
        )
        const observer = yield* SqlClient
        let most = 0
        const ended = Effect.gen(function*() {
          most = Math.max(most, yield* proxied.sessions(applicationName))
          return (yield* observer`select from horsies_history`).length >= tasks
        })
        yield* proxied.until("all tasks have ended", ended, "25 seconds")
        yield* observer`truncate horsies_history`
        assert.deepStrictEqual(errors, [])
        assert.strictEqual(budget, 7)
        assert.isAtMost(most, budget)
        assert.isAbove(most, 2)
      }))
  }
})
