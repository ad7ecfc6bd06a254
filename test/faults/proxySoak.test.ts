/**
 * Producers and workers behind one bad network. `HORSIES_SOAK_SECONDS` says how long it is bad (30), `HORSIES_SOAK_SEED`
 * repeats a run.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Console from "effect/Console"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { BrokerError } from "../../src/Broker.ts"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Task from "../../src/Task.ts"
import { type FaultProxy, openSockets } from "../support/FaultProxy.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { start } from "../support/worker.ts"
import * as brokers from "./brokers.ts"
import * as proxied from "./proxied.ts"

const seconds = Number(process.env["HORSIES_SOAK_SECONDS"] ?? 30)
const seed = Number(process.env["HORSIES_SOAK_SEED"] ?? Math.floor(Math.random() * 2 ** 32))

const producers = 10
const each = 100

class Numbered extends Task.make("Numbered", { payload: { n: Schema.Int }, success: Schema.Int }) {}

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
const randomOf = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A server of the test's own, and as whom the broker comes: not as the superuser, who always finds a connection. */
const Server = Layer.effectContext(Effect.gen(function*() {
  // A crash of the server is no crash of the system: what was written is there without a sync.
  const server = yield* EmbeddedPostgres.make({ settings: { fsync: false, max_connections: 60 } })
  const observer = yield* Layer.build(
    PgClient.layer({ url: server.url, maxConnections: 2, applicationName: "observer" })
  )
  const sql = Context.get(observer, SqlClient)
  yield* sql`create role soak login password 'soak'`
  yield* sql`grant all on schema public to soak`
  const url = new URL(Redacted.value(server.url))
  url.username = "soak"
  url.password = "soak"
  return Context.make(TestDatabase, { name: "postgres", url: Redacted.make(url.href) }).pipe(
    Context.add(EmbeddedPostgres.EmbeddedPostgres, server),
    Context.add(SqlClient, sql)
  )
})).pipe(Layer.provideMerge(Layer.succeed(References.MinimumLogLevel, "Error")), Layer.orDie)

/** Looks until the server is there to answer. */
const persistently = <A, E, R>(look: Effect.Effect<A, E, R>) =>
  Effect.orDie(Effect.retry(look, { schedule: Schedule.spaced("50 millis"), times: 200 }))

/** Takes what connections the server has left, for as long as the scope is open. */
const crowd = Effect.gen(function*() {
  const { url } = yield* TestDatabase
  const { sql } = yield* proxied.poolOf({ databaseUrl: url, applicationName: "crowd", poolSize: 1, maxOverflow: 59 })
  yield* Effect.forEach(
    Array.from({ length: 60 }),
    () => Effect.exit(Effect.timeout(sql.reserve, "500 millis")),
    { concurrency: "unbounded", discard: true }
  )
})

const readOnly = (value: "on" | "off") =>
  Effect.flatMap(SqlClient, (sql) =>
    Effect.andThen(
      sql.unsafe(`alter system set default_transaction_read_only = ${value}`),
      sql`select pg_reload_conf()`
    ))

type Services = EmbeddedPostgres.EmbeddedPostgres | Scope.Scope | SqlClient | TestDatabase

/** One fault after the other until the time is over; then fair weather. */
const badWeather = Effect.fnUntraced(function*(proxy: FaultProxy, random: () => number) {
  const observer = yield* SqlClient
  const server = yield* EmbeddedPostgres.EmbeddedPostgres
  const some = Effect.suspend(() => Effect.sleep(100 + random() * 700))
  const faults: ReadonlyArray<readonly [string, () => Effect.Effect<unknown, unknown, Services>]> = [
    ["delay", () => proxy.set({ delay: random() * 150 })],
    ["bandwidth", () => proxy.set({ bytesPerSecond: 20_000 + random() * 200_000 })],
    ["freeze", () => proxy.freeze()],
    ["freeze requests", () => proxy.freeze("requests")],
    ["freeze answers", () => proxy.freeze("answers")],
    ["reset", () => proxy.reset],
    ["end", () => proxy.end],
    ["cut requests", () => proxy.cut("requests")],
    ["cut answers", () => proxy.cut("answers")],
    ["swallow new links", () => Effect.andThen(proxy.reset, proxy.set({ newLinks: "swallow" }))],
    ["refuse new links", () => Effect.andThen(proxy.reset, proxy.set({ newLinks: "refuse" }))],
    [
      "terminate",
      () => observer`select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'soak%'`
    ],
    ["restart", () => server.restart(random() < 0.5 ? "fast" : "immediate")],
    ["exhaust", () => Effect.scoped(Effect.andThen(Effect.ignore(crowd), Effect.andThen(proxy.reset, some)))],
    ["read-only", () => Effect.andThen(Effect.andThen(readOnly("on"), some), persistently(readOnly("off")))]
  ]
  const happened: Array<string> = []
  const until = performance.now() + seconds * 1000
  let left = faults
  while (performance.now() < until) {
    const [name, fault] = left[Math.floor(random() * left.length)]!
    // Each in its turn, in an order of chance: none is missed.
    left = left.length === 1 ? faults : left.filter(([other]) => other !== name)
    happened.push(name)
    yield* persistently(fault())
    yield* some
    yield* proxy.heal
    yield* Effect.sleep(random() * 300)
  }
  return happened
})

/** Sends one number until a send is acknowledged. What failed may have arrived all the same. */
const send = Effect.fnUntraced(function*(n: number, errors: Array<unknown>) {
  for (let failures = 0;; failures++) {
    const result = yield* Effect.result(Numbered.send({ n }))
    if (result._tag === "Success") return { n, failures, handle: result.success }
    errors.push(result.failure)
    yield* Effect.sleep("50 millis")
  }
})

const application = (applicationName: string) =>
  `select count(*) from pg_stat_activity
  where application_name = '${applicationName}'`

layer(Server, { excludeTestServices: true, timeout: "60 seconds" })("a bad network", (it) => {
  it.effect(`${producers * each} tasks through ${seconds} s of faults, seed ${seed}`, () =>
    Effect.gen(function*() {
      const observer = yield* SqlClient
      const { options, proxy } = yield* proxied.make(proxied.alert)
      const unhandled: Array<unknown> = []
      const onUnhandled = (error: unknown) => void unhandled.push(error)
      yield* Effect.acquireRelease(
        Effect.sync(() => process.on("unhandledRejection", onUnhandled).on("uncaughtException", onUnhandled)),
        () => Effect.sync(() => process.off("unhandledRejection", onUnhandled).off("uncaughtException", onUnhandled))
      )

      const scope = yield* Scope.make()
      const workers = ["soak_worker_1", "soak_worker_2"]
      const ran = new Map<number, number>()
      const handler = Numbered.toLayer(({ n }) =>
        Effect.sync(() => {
          ran.set(n, (ran.get(n) ?? 0) + 1)
          return n
        })
      )
      for (const applicationName of workers) {
        const broker = Layer.provide(
          PostgresBroker.layerWorker,
          PostgresConfig.layer({ ...options, applicationName })
        )
        const context = yield* Scope.provide(Layer.build(Layer.fresh(broker)), scope)
        yield* start(handler, { heartbeatInterval: "1 second", lease: "5 seconds" }).pipe(
          Effect.provideContext(Context.add(context, Scope.Scope, scope))
        )
      }
      const producing = yield* Scope.provide(brokers.make({ ...options, applicationName: "soak_producers" }), scope)
      // What a server has yet to notice the end of is not counted: the sockets of this side are.
      const budget = 2 * (3 + 2 + 2) + 5 + 10 + 2
      let most = 0
      const counting = yield* Effect.forkScoped(Effect.forever(Effect.andThen(
        Effect.sync(() => {
          most = Math.max(most, openSockets(proxy.port))
        }),
        Effect.sleep("5 millis")
      )))

      const errors: Array<unknown> = []
      const pace = seconds * 1000 / each
      const sending = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: producers }, (_, producer) => producer),
          (producer) =>
            Effect.forEach(
              Array.from({ length: each }, (_, i) => producer * each + i),
              (n) => Effect.tap(send(n, errors), Effect.sleep(pace * 0.9))
            ),
          { concurrency: "unbounded" }
        ).pipe(Effect.provideContext(producing))
      )
      const happened = yield* badWeather(proxy, randomOf(seed))
      const acknowledged = (yield* Fiber.join(sending)).flat()

      // Everybody learns of the outcome.
      const results = yield* Effect.forEach(acknowledged, ({ handle }) => handle.await, { concurrency: "unbounded" })
        .pipe(Effect.provideContext(producing), Effect.timeout("60 seconds"))
      assert.deepStrictEqual(results, acknowledged.map(({ n }) => n))
      yield* proxied.until(
        "everything has ended",
        persistently(Effect.map(observer`select from horsies_tasks limit 1`, (rows) => rows.length === 0)),
        "60 seconds"
      )
      yield* Fiber.interrupt(counting)

      // One outcome each; what arrived although its sender was told that it had failed comes on top.
      const unclear = acknowledged.reduce((sum, { failures }) => sum + failures, 0)
      const rows = yield* observer<{ readonly id: string; readonly n: number; readonly claims: number }>`
        select id, (payload->>'n')::int as n, fence as claims from horsies_history where name = 'Numbered'`
      const ids = new Set(rows.map(({ id }) => id))
      assert.strictEqual(ids.size, rows.length, "none twice")
      assert.strictEqual(new Set(rows.map(({ n }) => n)).size, producers * each)
      assert.strictEqual(acknowledged.filter(({ handle }) => !ids.has(handle.id)).length, 0)
      assert.isAtMost(rows.length - acknowledged.length, unclear)
      assert.strictEqual(ran.size, producers * each)
      // Each task ran, and at most once for each time that it was claimed: again only after a loss, or when nobody can
      // know whether the claim before was answered.
      for (const [n, runs] of ran) {
        const tasks = rows.filter((row) => row.n === n)
        const claims = tasks.reduce((sum, { claims }) => sum + claims, 0)
        assert.isAtLeast(runs, tasks.length, `runs of task ${n}`)
        assert.isAtMost(runs, claims, `runs of task ${n}`)
      }
      const again = rows.filter(({ claims }) => claims > 1).length
      assert.isAtMost(most, budget)

      // Every error says whether trying again helps; of the faults here, it always does.
      assert.deepStrictEqual(errors.filter((error) => !(error instanceof BrokerError && error.isRetryable)), [])
      assert.deepStrictEqual(unhandled, [])

      if (process.env["HORSIES_SOAK_SECONDS"] !== undefined) {
        yield* Console.log({
          seed,
          faults: happened.length,
          errors: errors.length,
          arrivedThoughUnclear: rows.length - acknowledged.length,
          claimedAgain: again,
          runs: [...ran.values()].reduce((sum, runs) => sum + runs, 0),
          mostConnections: most
        })
      }
      // What is left when the load is gone: 3 + 2 of a worker, 5 + 2 of the producers.
      yield* proxied.until(
        "every pool is as small as it was",
        Effect.map(
          observer.unsafe<{ readonly small: boolean }>(
            `select (${application("soak_worker_1")}) <= 5 and (${application("soak_worker_2")}) <= 5
              and (${application("soak_producers")}) <= 7 as small`
          ),
          ([row]) => row!.small
        ),
        "60 seconds"
      )
      yield* Scope.close(scope, Exit.void)
      let left: unknown
      yield* proxied.until(
        "every connection is closed",
        Effect.map(
          observer`select application_name, state, query, backend_start::text, state_change::text
            from pg_stat_activity where application_name like 'soak%'`,
          (rows) => {
            left = { now: new Date(), rows, proxy: proxy.counters(), sockets: openSockets(proxy.port) }
            return rows.length === 0 && proxy.counters().open === 0
          }
        )
      ).pipe(Effect.onError(() => Console.log(JSON.stringify(left, null, 1))))
    }), (seconds + 180) * 1000)
})
