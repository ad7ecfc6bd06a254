import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, it, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Stream from "effect/Stream"
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
      const up = metrics.filter(({ id }) => id === "horsies_connection_up")
      assert.deepStrictEqual(
        up.map(({ attributes, state }) => [attributes?.["connection"], (state as { readonly value: number }).value])
          .sort(),
        [["pool", 1], ["session", 1]]
      )
    }))
})

it("a report says 503 while anything is not connected, and names no secret", () => {
  const state = { status: "connected", since: 0, reconnects: 0, lastError: undefined, roundTrip: undefined } as const
  const connections = { size: 5, overflow: 10, open: 5, inUse: 0, waiting: 0 }
  const ill = Health.response({
    healthy: false,
    pool: { ...state, connections },
    session: { ...state, status: "reconnecting", lastError: "gone" }
  })
  assert.strictEqual(ill.status, 503)
})
