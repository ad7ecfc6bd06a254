import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import { SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import { inspect } from "node:util"
import { SessionListener } from "../../src/connection/SessionListener.ts"
import * as brokers from "../faults/brokers.ts"
import * as proxied from "../faults/proxied.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

/** What is logged while an effect runs, whole and as the statements of the echo with their outcomes. */
const logged = Effect.fnUntraced(function*<A, E, R>(self: Effect.Effect<A, E, R>) {
  const all: Array<unknown> = []
  const statements: Array<string> = []
  const durations: Array<unknown> = []
  const logger = Logger.make(({ cause, fiber, message }) => {
    const { duration, outcome, sql } = fiber.getRef(References.CurrentLogAnnotations)
    all.push(message, cause, fiber.getRef(References.CurrentLogAnnotations))
    if (!String(message).includes("statement")) return
    statements.push(`${String(sql)} ${String(outcome)}`)
    durations.push(duration)
  })
  yield* Effect.exit(self).pipe(
    Effect.provide(Logger.layer([logger])),
    Effect.provideService(References.MinimumLogLevel, "All")
  )
  return { all: inspect(all, { depth: 20 }), statements, durations }
})

const secret = "s3cret-parameter"

const statements = (sql: SqlClient) =>
  Effect.gen(function*() {
    yield* sql`select ${secret}::text as a`
    yield* sql`select
        1,   ${secret}::text`.values
    yield* Effect.exit(sql`select ${secret}::int`)
    yield* Stream.runDrain(sql`select ${secret}::text from generate_series(1, 3)`.stream)
    yield* sql.withTransaction(sql`select ${secret}::text as b`)
    yield* Effect.exit(Effect.timeout(sql`select pg_sleep(${5})`, "50 millis"))
  })

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("echo", (it) => {
  it.effect("logs every statement with its duration and its outcome, never a parameter", () =>
    Effect.gen(function*() {
      const { sql } = yield* proxied.makePool({ echo: true })
      const { all, durations, statements: echoed } = yield* logged(statements(sql))
      assert.deepStrictEqual(echoed, [
        "select $1::text as a Success",
        "select 1, $1::text Success",
        "select $1::int Failure",
        "select $1::text from generate_series(1, 3) Success",
        "BEGIN Success",
        "select $1::text as b Success",
        "COMMIT Success",
        "select pg_sleep($1) Interrupted"
      ])
      for (const duration of durations) assert.match(String(duration), /^\d.*(ms|s|µs|ns)/)
      assert.notInclude(all, secret)
    }))

  it.effect("logs what a broker does by itself: migrations, its session, its probes and its pings", () =>
    Effect.gen(function*() {
      const { applicationName, options, proxy } = yield* proxied.make({
        ...proxied.alert,
        echo: true,
        poolSize: 1,
        maxOverflow: 0
      })
      const observer = yield* SqlClient
      const { all, durations, statements: echoed } = yield* logged(Effect.scoped(Effect.gen(function*() {
        const context = yield* brokers.make(options)
        const listener = Context.get(context, SessionListener)
        yield* Effect.scoped(Effect.flatMap(listener.subscribe("news"), Queue.take))
        // Longer than the session goes without a probe, and an idle connection without a ping.
        yield* proxied.until(
          "a connection is idle",
          Effect.map(
            observer`select from pg_stat_activity where application_name = ${applicationName} and state = 'idle'
              and state_change < clock_timestamp() - interval '1300 milliseconds'`,
            (rows) => rows.length > 0
          )
        )
        yield* Context.get(context, SqlClient)`select ${secret}::text`
      })))
      const seen = (statement: RegExp) => assert.isTrue(echoed.some((text) => statement.test(text)), String(statement))
      seen(/^create table public\.horsies_tasks .* Success$/)
      seen(/^select pg_backend_pid\(\), .* Success$/)
      seen(/^LISTEN horsies_self_\w+ Success$/)
      seen(/^LISTEN horsies_wake_public Success$/)
      seen(/^LISTEN news Success$/)
      seen(/^UNLISTEN news Success$/)
      seen(/^select pg_notify\(\$1, ''\) Success$/)
      const own = echoed.indexOf("select $1::text Success")
      assert.include(echoed.slice(0, own), "select 1 Success")
      assert.isAtLeast(echoed.filter((text) => text.startsWith("select pg_notify($1, '')")).length, 3)
      for (const duration of durations) assert.match(String(duration), /^\d.*(ms|s|µs|ns)/)
      assert.notInclude(all, secret)
      assert.notInclude(all, Redacted.value(options.databaseUrl))
      assert.isAtLeast(proxy.counters().accepted, 3)
    }))

  it.effect("logs how a pooler is told the limits that it refused at the start", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const pooler = yield* PgBouncer.make(url, { poolMode: "session" })
      const { statements: echoed } = yield* logged(Effect.scoped(
        proxied.poolOf({ databaseUrl: pooler.url, echo: true, lockTimeout: "1 second", tcpKeepalives: false })
      ))
      assert.include(echoed, "select set_config($1, $2, false) Success")
    }))

  it.effect("is off by default", () =>
    Effect.gen(function*() {
      const { sql } = yield* proxied.makePool()
      const { all, statements: echoed } = yield* logged(statements(sql))
      assert.deepStrictEqual(echoed, [])
      assert.notInclude(all, "select")
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(sql`select 1`)))
    }))
})
