/** The health of connections behind a bad network, as report, response, readiness and metrics. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import * as Health from "../../src/Health.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import * as brokers from "./brokers.ts"
import * as proxied from "./proxied.ts"

/** idle + interval × count of `proxied.alert`, in milliseconds, and what a slow machine may take on top. */
const bound = 3000
const slack = 500

/** A broker and its health, with metrics of their own. */
const makeHealth = Effect.fnUntraced(function*(
  options: PostgresConfig.Options,
  broker: typeof PostgresBroker.layer = PostgresBroker.layer
) {
  const registry = new Map()
  const metrics = Context.make(Metric.MetricRegistry, registry)
  const live = Layer.provideMerge(Health.layer, broker).pipe(Layer.provide(PostgresConfig.layer(options)))
  const context = yield* Layer.build(Layer.fresh(live)).pipe(
    Effect.provideService(Metric.MetricRegistry, registry)
  )
  /** The values of a metric by the attributes that it has. */
  const valuesOf = (name: string) =>
    Object.fromEntries(
      Metric.snapshotUnsafe(metrics).filter(({ id }) => id === name).map(({ attributes, state }) => [
        JSON.stringify(attributes),
        // A gauge's value, or a counter's count.
        Number(Object.values(state)[0])
      ])
    )
  return { health: Context.get(context, Health.Health), sql: Context.get(context, SqlClient), valuesOf }
})

/** Waits for a report. */
const reported = (health: Health.Health["Service"], what: (report: Health.Report) => boolean) =>
  health.changes.pipe(Stream.filter(what), Stream.take(1), Stream.runDrain)

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("the health of a pool", (it) => {
  it.effect("on a half-open link is known within the bound, and so is its recovery", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const { options, proxy } = yield* proxied.make({ ...proxied.alert, connectTimeout: "1 second" })
      const { health, valuesOf } = yield* makeHealth({ ...options, sessionDatabaseUrl: url })
      yield* health.ready
      const attributes = JSON.stringify({ connection: "pool", application: options.applicationName, pool: "general" })
      assert.strictEqual(valuesOf("horsies_connection_up")[attributes], 1)

      yield* proxy.set({ newLinks: "swallow" })
      yield* proxy.freeze()
      const { millis } = yield* proxied.timed(reported(health, ({ pool }) => pool.status === "reconnecting"))
      assert.isBelow(millis, bound + slack)
      const ill = yield* health.report
      assert.isFalse(ill.healthy)
      assert.isString(ill.pool.lastError)
      assert.strictEqual(ill.session?.status, "connected")
      assert.strictEqual(Health.response(ill).status, 503)
      assert.strictEqual(valuesOf("horsies_connection_up")[attributes], 0)
      const ready = yield* Effect.forkChild(health.ready, { startImmediately: true })
      assert.isUndefined(ready.pollUnsafe())

      yield* proxy.heal
      yield* Effect.timeout(Fiber.join(ready), bound + slack)
      const { healthy, pool } = yield* health.report
      assert.isTrue(healthy)
      assert.deepInclude(pool, { status: "connected", reconnects: 1 })
      assert.strictEqual(valuesOf("horsies_connection_up")[attributes], 1)
      assert.strictEqual(valuesOf("horsies_connection_reconnects")[attributes], 1)
      assert.isAbove(valuesOf("horsies_connection_round_trip_seconds")[attributes]!, 0)
    }))

  it.effect("is looked into as soon as a statement, or an open, fails because the server is away", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const { options, proxy } = yield* proxied.make()
      const { health, sql } = yield* makeHealth({ ...options, sessionDatabaseUrl: url })
      for (let round = 1; round <= 2; round++) {
        yield* health.ready
        yield* proxy.set({ newLinks: "refuse" })
        yield* proxy.reset
        yield* Effect.flip(sql`select 1`)
        const { millis } = yield* proxied.timed(reported(health, ({ pool }) => pool.status === "reconnecting"))
        assert.isBelow(millis, slack)
        yield* proxy.heal
        yield* reported(health, ({ pool }) => pool.reconnects === round)
      }
    }))

  it.effect("of a producer without a session is its pool's alone", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      yield* brokers.make({ databaseUrl: url })
      const pooler = yield* PgBouncer.make(url, { poolMode: "transaction" })
      const { health, valuesOf } = yield* makeHealth({
        databaseUrl: pooler.url,
        pgbouncerTransactionMode: true,
        applicationName: "producer"
      })
      yield* health.ready
      const report = yield* health.report
      assert.isTrue(report.healthy)
      assert.isUndefined(report.session)
      assert.strictEqual(Health.response(report).status, 200)
      assert.deepStrictEqual(valuesOf("horsies_connection_up"), {
        [JSON.stringify({ connection: "pool", application: "producer", pool: "general" })]: 1
      })
    }))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("the metrics of a pool", (it) => {
  it.effect("follow its connections as they are opened, taken, waited for, given back and closed", () =>
    Effect.gen(function*() {
      const { options, proxy } = yield* proxied.make({ workerPoolSize: 1, workerMaxOverflow: 1 })
      const scope = yield* Scope.make()
      const { sql, valuesOf } = yield* Scope.provide(makeHealth(options, PostgresBroker.layerWorker), scope)
      const of = (pool: string) => JSON.stringify({ pool, application: options.applicationName })
      const figures = () =>
        [
          "horsies_pool_size",
          "horsies_pool_overflow",
          "horsies_pool_connections_open",
          "horsies_pool_connections_used",
          "horsies_pool_waiting"
        ].map((name) => valuesOf(name)[of("worker")])
      const become = (what: string, ...expected: ReadonlyArray<number>) =>
        proxied.until(`${what}: ${expected.join()}`, Effect.sync(() => figures().join() === expected.join()))

      yield* become("idle", 1, 1, 1, 0, 0)
      assert.sameMembers(Object.keys(valuesOf("horsies_pool_size")), [of("session"), of("transactions"), of("worker")])
      const busy = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: 5 }), () => sql`select pg_sleep(0.3)`, { concurrency: "unbounded" })
      )
      yield* become("busy", 1, 1, 2, 2, 3)
      yield* Fiber.join(busy)
      yield* become("idle again", 1, 1, 2, 0, 0)
      yield* proxy.set({ newLinks: "refuse" })
      yield* proxy.reset
      yield* become("cut off", 1, 1, 0, 0, 0)
      yield* proxy.heal
      // An attempt that began before may yet fail.
      yield* proxied.until("the pool is back", Effect.map(Effect.exit(sql`select 1`), Exit.isSuccess))
      yield* Scope.close(scope, Exit.void)
      yield* become("closed", 0, 0, 0, 0, 0)
    }))
})
