import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as HttpBody from "effect/http/HttpBody"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import { inspect } from "node:util"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"
import * as Health from "../../src/Health.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"

const Server = EmbeddedPostgres.layer({ durable: false })
const Broker = PostgresBroker.layer.pipe(
  Layer.provide(Layer.unwrap(Effect.map(
    EmbeddedPostgres.EmbeddedPostgres,
    ({ url }) => PostgresConfig.layer({ databaseUrl: url })
  ))),
  Layer.provideMerge(Server)
)
const Live = HttpRouter.serve(Health.route("/health"), { disableListenLog: true, disableLogger: true }).pipe(
  Layer.provideMerge(Health.layer),
  Layer.provideMerge(Broker),
  Layer.provideMerge(NodeHttpServer.layerTest)
)

layer(Live, { excludeTestServices: true, timeout: "30 seconds" })("health", (it) => {
  it.effect("follows an outage of the server: report, changes, readiness, route and metrics", () =>
    Effect.gen(function*() {
      const server = yield* EmbeddedPostgres.EmbeddedPostgres
      const health = yield* Health.Health
      const ask = Effect.gen(function*() {
        const response = yield* HttpClient.get("/health")
        return { status: response.status, body: (yield* response.json) as Record<string, Record<string, unknown>> }
      })

      yield* health.ready
      const report = yield* health.report
      assert.isTrue(report.healthy)
      assert.deepStrictEqual([report.pool.status, report.session?.status], ["connected", "connected"])
      assert.isDefined(report.pool.roundTrip)
      const well = yield* ask
      assert.strictEqual(well.status, 200)
      assert.strictEqual(well.body["status"], "ok" as never)
      assert.strictEqual(well.body["session"]?.["status"], "connected")

      const seen = yield* health.changes.pipe(
        Stream.takeUntil(({ healthy, session }) => healthy && session?.reconnects === 1),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      yield* server.stop("fast")
      yield* health.changes.pipe(
        Stream.filter(({ session }) => session?.status === "reconnecting"),
        Stream.take(1),
        Stream.runDrain
      )
      const ill = yield* ask
      assert.strictEqual(ill.status, 503)
      assert.strictEqual(ill.body["status"], "unavailable" as never)
      assert.isString(ill.body["session"]?.["lastError"])

      yield* server.start
      yield* health.ready
      const reports = yield* Fiber.join(seen)
      assert.isTrue(reports.some(({ healthy }) => !healthy))
      const after = yield* ask
      assert.strictEqual(after.status, 200)
      assert.strictEqual(after.body["session"]?.["reconnects"], 1)

      const metrics = yield* Metric.snapshot
      const values = (name: string) =>
        metrics.filter(({ id }) => id === name)
          .map(({ attributes, state }) => [
            attributes?.["connection"],
            Number(Object.values(state)[0])
          ])
          .toSorted()
      assert.deepStrictEqual(values("horsies_connection_up"), [["pool", 1], ["session", 1]])
      // Whether the pool was away at the time of a probe is a matter of chance.
      assert.deepInclude(values("horsies_connection_reconnects"), ["session", 1])
      for (const [, value] of values("horsies_connection_round_trip_seconds")) assert.isAbove(Number(value), 0)
      assert.strictEqual(values("horsies_connection_round_trip_seconds").length, 2)
    }))

  it.effect("names no secret, whatever went wrong", () =>
    Effect.gen(function*() {
      const server = yield* EmbeddedPostgres.EmbeddedPostgres
      const sql = yield* SqlClient
      const secret = "hunter2"
      yield* sql.unsafe(`create role guest login superuser password '${secret}'`)
      const url = new URL(Redacted.value(server.url))
      url.username = "guest"
      url.password = secret
      const context = yield* Layer.build(Layer.fresh(
        Layer.provideMerge(Health.layer, PostgresBroker.layer).pipe(
          Layer.provide(PostgresConfig.layer({ databaseUrl: Redacted.make(url.href) }))
        )
      ))
      const health = Context.get(context, Health.Health)
      yield* health.ready
      yield* sql`alter role guest password 'another'`
      yield* sql`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'guest'`
      yield* Effect.exit(Context.get(context, SqlClient)`select 1`)
      yield* health.changes.pipe(
        Stream.filter(({ pool, session }) =>
          [pool, session].every((state) => state?.lastError?.includes("password authentication failed"))
        ),
        Stream.take(1),
        Stream.runDrain
      )
      const report = yield* health.report
      const { body, status } = Health.response(report)
      assert.strictEqual(status, 503)
      const text = new TextDecoder().decode((body as HttpBody.Uint8Array).body)
      assert.include(text, "password authentication failed")
      for (const shown of [text, inspect(report, { depth: 20 }), JSON.stringify(report)]) {
        assert.notInclude(shown, secret)
      }
    }))
})
