import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import type { BrokerErrorReason } from "../../src/Broker.ts"
import { sqlStateOf } from "../../src/connection/failure.ts"
import type * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import * as Database from "../support/TestDatabase.ts"
import { start } from "../support/worker.ts"
import { Echo } from "../worker/tasks.ts"
import * as Brokers from "./brokers.ts"

/** The database through a pooler of each kind, and without. */
class Ways extends Context.Service<
  Ways,
  Readonly<Record<"direct" | "session" | "transaction" | "statement", Redacted.Redacted>>
>()("effect-horsies/test/faults/Ways") {
  static readonly layer = Layer.effect(
    Ways,
    Effect.gen(function*() {
      const { url } = yield* Database.TestDatabase
      return {
        direct: url,
        session: (yield* PgBouncer.make(url, { poolMode: "session" })).url,
        transaction: (yield* PgBouncer.make(url, { poolMode: "transaction" })).url,
        statement: (yield* PgBouncer.make(url, { poolMode: "statement" })).url
      }
    })
  ).pipe(Layer.provide(Database.TestDatabase.layer))
}

const assertSwallowed = (reason: BrokerErrorReason) => {
  assert.strictEqual(reason._tag, "Refused")
  assert.match(reason.message, /session URL leads to a transaction or statement pooler; set sessionDatabaseUrl/)
}

layer(Ways.layer, { excludeTestServices: true, timeout: "30 seconds" })("settings and poolers", (it) => {
  it.effect.each(["transaction", "statement"] as const)(
    "a session URL that leads to a %s pooler is named as such, about 2 seconds after the start",
    (mode) =>
      Effect.gen(function*() {
        const ways = yield* Ways
        const startedAt = performance.now()
        assertSwallowed(
          yield* Brokers.refusal({
            databaseUrl: ways.direct,
            sessionDatabaseUrl: ways[mode]
          })
        )
        assert.isBelow(performance.now() - startedAt, 4000)
      })
  )

  it.effect("a pooler that nobody told us of is named too", () =>
    Effect.gen(function*() {
      assertSwallowed(yield* Brokers.refusal({ databaseUrl: (yield* Ways).transaction }))
    }))

  it.effect("a statement pooler in the place of a transaction pooler is named", () =>
    Effect.gen(function*() {
      const ways = yield* Ways
      const reason = yield* Brokers.refusal({
        databaseUrl: ways.statement,
        sessionDatabaseUrl: ways.direct,
        pgbouncerTransactionMode: true
      })
      assert.strictEqual(reason._tag, "Misconfigured")
      assert.deepInclude(reason, { field: "databaseUrl", code: "STATEMENT_POOL" })
      assert.include(reason.message, "set its pool_mode to transaction")
    }))

  it.effect("a session URL that is the transaction pool's own is refused, however it is written", () =>
    Effect.gen(function*() {
      const { transaction } = yield* Ways
      const url = new URL(Redacted.value(transaction))
      url.username = "somebody"
      url.searchParams.set("application_name", "sessions")
      const error = yield* Effect.flip(Brokers.make({
        databaseUrl: transaction,
        sessionDatabaseUrl: Redacted.make(url.href),
        pgbouncerTransactionMode: true
      }))
      assert.strictEqual(error._tag, "PostgresConfigError")
      const { problems } = error as PostgresConfig.PostgresConfigError
      assert.deepStrictEqual(problems.map(({ code, field }) => [field, code]), [[
        "sessionDatabaseUrl",
        "SESSION_URL_SAME"
      ]])
    }))

  it.effect("without a session URL there is no worker behind a transaction pool", () =>
    Effect.gen(function*() {
      const ways = yield* Ways
      yield* Brokers.make({ databaseUrl: ways.direct })
      const producer = yield* Brokers.make({ databaseUrl: ways.transaction, pgbouncerTransactionMode: true })
      const { reason } = yield* start(Echo.toLayer(({ text }) => Effect.succeed(text))).pipe(
        Effect.provide(producer),
        Effect.flip
      )
      assert.deepInclude(reason, { _tag: "Misconfigured", field: "sessionDatabaseUrl", code: "SESSION_URL_REQUIRED" })
      assert.include(reason.message, "set sessionDatabaseUrl")
    }))

  it.effect("without a session URL the tables have to be there", () =>
    Effect.gen(function*() {
      const { url } = yield* Database.make
      const pooler = yield* PgBouncer.make(url, { poolMode: "transaction" })
      const reason = yield* Brokers.refusal({ databaseUrl: pooler.url, pgbouncerTransactionMode: true })
      assert.strictEqual(reason._tag, "SchemaMismatch")
      assert.include(reason.message, "the tables are not there; run the migrations first")
    }))

  it.effect("a session pooler is as good as the server: for LISTEN, limits, and statements that take their time", () =>
    Effect.gen(function*() {
      const { direct, session } = yield* Ways
      const context = yield* Brokers.make({
        databaseUrl: session,
        sessionDatabaseUrl: session,
        statementTimeout: "3 seconds",
        lockTimeout: "300 millis",
        tcpKeepalivesIdle: "1 second",
        tcpKeepalivesInterval: "1 second",
        tcpKeepalivesCount: 1
      })
      const elsewhere = yield* Brokers.make({ databaseUrl: direct })
      const started = yield* Deferred.make<void>()
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient
        yield* start(Echo.toLayer(({ text }) => Effect.as(Deferred.succeed(started, undefined), text)))
        // Well before the poll floor of five seconds: the wake-up came through the pooler.
        yield* Effect.provide(Echo.send({ text: "" }), elsewhere)
        yield* Effect.timeout(Deferred.await(started), "3 seconds")

        // PgBouncer refuses the parameters, so they are set in the session.
        const [row] =
          yield* sql`select current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock`
        assert.deepStrictEqual(row, { statement: "3s", lock: "300ms" })
        const late = yield* Effect.flip(sql`select pg_sleep(30)`)
        assert.strictEqual(late._tag === "SqlError" ? sqlStateOf(late) : late, "57014")
        // Longer than the bound of the keepalives: the pooler's process ids say nothing about who is at work.
        assert.lengthOf(yield* sql`select pg_sleep(2.6)`, 1)
      }).pipe(Effect.provide(context))
    }))
})
