import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import { BeginTransaction, SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import { Broker, noTransactions } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import { brokerContract } from "../../src/testing/contract.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { start, until } from "../support/worker.ts"
import { workerBehaviour } from "../worker/behaviour.ts"
import { Echo } from "../worker/tasks.ts"
import * as Brokers from "./brokers.ts"

/** Settings for a transaction pool, with the server itself for sessions. */
const split = (pool: Redacted.Redacted, server: Redacted.Redacted): PostgresConfig.Options => ({
  databaseUrl: pool,
  sessionDatabaseUrl: server,
  pgbouncerTransactionMode: true
})

/** A broker's settings for the pooler and the database of the test. */
const settings = Layer.unwrap(Effect.gen(function*() {
  const pooler = yield* PgBouncer.PgBouncer
  const { url } = yield* TestDatabase
  return PostgresConfig.layer(split(pooler.url, url))
}))

/** At the end of a suite: no statement is prepared under a name on the server connection that everybody has shared. */
const noneNamed = Layer.effectDiscard(Effect.gen(function*() {
  const { url } = yield* PgBouncer.PgBouncer
  const sql = Context.get(yield* Layer.build(PgClient.layer({ url, maxConnections: 1, prepare: false })), SqlClient)
  yield* Effect.addFinalizer(() =>
    Effect.orDie(Effect.map(
      sql.unsafe("select statement from pg_prepared_statements"),
      (rows) => assert.deepStrictEqual(rows, [])
    ))
  )
}))

/** The one connection of a pool would be taken by the transaction of a handler. */
const withoutTransactions = Layer.effect(
  Broker,
  Broker.useSync((broker) => ({
    ...broker,
    transactional: Effect.succeed(false),
    transact: () => Effect.fail(noTransactions)
  }))
)

for (const [poolSize, transactions] of [[20, true], [1, false]] as const) {
  const pooled = PostgresBroker.layer.pipe(
    Layer.provide(poolSize === 1 ? noneNamed : Layer.empty),
    Layer.provide(settings)
  )
  brokerContract(
    `PostgresBroker through PgBouncer in transaction mode, pool size ${poolSize}`,
    PostgresHarness.transactional.pipe(
      Layer.provideMerge(transactions ? pooled : Layer.provideMerge(withoutTransactions, pooled)),
      Layer.provide(PgBouncer.PgBouncer.layer({ poolMode: "transaction", poolSize })),
      Layer.provideMerge(PostgresHarness.layer)
    ),
    { excludeTestServices: true, transactions }
  )
}

const onePooled = Layer.provideMerge(
  PgBouncer.PgBouncer.layer({ poolMode: "transaction", poolSize: 1 }),
  TestDatabase.layer
)

workerBehaviour(
  "PgBouncer in transaction mode, pool size 1",
  PostgresBroker.layer.pipe(Layer.provide(settings), Layer.provide(onePooled))
)

layer(onePooled, { excludeTestServices: true, timeout: "30 seconds" })("a transaction pool of one connection", (it) => {
  it.effect("tasks run: sent by one process, in and outside transactions, run by another, awaited by both", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const pooler = (yield* PgBouncer.PgBouncer).url
      const worker = yield* Brokers.make(split(pooler, url))
      // Neither LISTEN nor migrations: a producer needs nothing but the pool.
      const producer = yield* Brokers.make({ databaseUrl: pooler, pgbouncerTransactionMode: true })
      yield* Effect.provide(start(Echo.toLayer(({ text }) => Effect.succeed(text.toUpperCase()))), worker)

      const texts = Array.from({ length: 100 }, (_, i) => `a${i}`)
      const results = yield* Effect.forEach(
        texts,
        (text, i) =>
          Effect.flatMap(
            i % 2 === 0
              ? Echo.send({ text })
              : SqlClient.use((sql) => sql.withTransaction(Effect.andThen(sql`select 1`, Echo.send({ text })))),
            (handle) => handle.await
          ),
        { concurrency: "unbounded" }
      ).pipe(Effect.provide(producer))
      assert.deepStrictEqual(results, texts.map((text) => text.toUpperCase()))

      const handle = yield* Effect.provide(Echo.send({ text: "pushed" }), worker)
      assert.strictEqual(yield* Effect.provide(handle.await, worker), "PUSHED")

      const sent = yield* SqlClient.use((sql) =>
        sql.withTransaction(Effect.andThen(Echo.send({ text: "never" }), Effect.fail("rolled back" as const)))
      ).pipe(Effect.provide(producer), Effect.flip)
      assert.strictEqual(sent, "rolled back")
      yield* Effect.provide(until("select count(*) = 101 from horsies_history"), worker)
    }))

  it.effect("no statement is prepared under a name on the server", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const pooler = (yield* PgBouncer.PgBouncer).url
      const named = (sql: SqlClient) =>
        Effect.map(
          sql.unsafe<{ readonly statement: string }>("select statement from pg_prepared_statements").unprepared,
          (rows) => rows.map(({ statement }) => statement)
        )
      // It would be seen if there were one: on the one server connection that everybody has here.
      const ordinary = Context.get(yield* Layer.build(PgClient.layer({ url: pooler, maxConnections: 1 })), SqlClient)
      yield* ordinary`select 'prepared'`
      assert.deepStrictEqual(yield* named(ordinary), ["select 'prepared'"])
      yield* ordinary.unsafe("deallocate all").unprepared

      const context = yield* Brokers.make(split(pooler, url))
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient
        yield* start(Echo.toLayer(({ text }) => Effect.succeed(text)))
        const handle = yield* sql.withTransaction(
          sql.withTransaction(Effect.andThen(sql`select ${1}::int, 'of the application'`, Echo.send({ text: "one" })))
        )
        yield* Echo.send({ text: "two" }, { delay: "10 millis" })
        assert.strictEqual(yield* handle.await, "one")
        yield* Broker.use((broker) => broker.recover)
        yield* Broker.use((broker) => broker.sweep)
        yield* Broker.use((broker) => broker.find(handle.id))
        const streamed = yield* Stream.runCollect(
          sql<{ readonly n: number }>`select n from generate_series(1, ${3000}::int) n`.stream
        )
        assert.deepStrictEqual(streamed.map(({ n }) => n), Array.from({ length: 3000 }, (_, i) => i + 1))
        assert.deepStrictEqual(yield* named(sql), [])
      }).pipe(Effect.provide(context))
    }))

  it.effect("limits hold in transactions, and do not stay behind for who has the connection next", () =>
    Effect.gen(function*() {
      const pooler = (yield* PgBouncer.PgBouncer).url
      const context = yield* Brokers.make({
        databaseUrl: pooler,
        pgbouncerTransactionMode: true,
        statementTimeout: "300 millis",
        lockTimeout: "200 millis"
      })
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient
        const limits =
          sql`select current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock`
        assert.deepStrictEqual(yield* sql.withTransaction(limits), [{ statement: "300ms", lock: "200ms" }])
        const serializable = Effect.provideService(
          sql.withTransaction(limits),
          BeginTransaction,
          "BEGIN ISOLATION LEVEL SERIALIZABLE"
        )
        assert.deepStrictEqual(yield* serializable, [{ statement: "300ms", lock: "200ms" }])
        const late = yield* Effect.flip(sql.withTransaction(sql`select pg_sleep(30)`))
        assert.strictEqual(late.reason._tag, "StatementTimeoutError")
        assert.deepStrictEqual(yield* limits, [{ statement: "0", lock: "0" }])
      }).pipe(Effect.provide(context))
    }))

  it.effect("the application cannot listen where nothing would arrive", () =>
    Effect.gen(function*() {
      const pooler = (yield* PgBouncer.PgBouncer).url
      const context = yield* Brokers.make({ databaseUrl: pooler, pgbouncerTransactionMode: true })
      const error = yield* Effect.flip(Context.get(context, PgClient.PgClient).listen("news"))
      assert.include(error.reason.message, "listen on a connection to the server itself")
    }))

  it.effect("an interrupted statement is cancelled, and its connection is free for others at once", () =>
    Effect.gen(function*() {
      const pooler = (yield* PgBouncer.PgBouncer).url
      const context = yield* Brokers.make({ databaseUrl: pooler, pgbouncerTransactionMode: true })
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient
        const { url } = yield* TestDatabase
        const slow = yield* Effect.forkChild(sql`select pg_sleep(30)`, { startImmediately: true })
        yield* Effect.provide(
          until(
            "select exists (select from pg_stat_activity where query = 'select pg_sleep(30)' and state = 'active')"
          ),
          PgClient.layer({ url })
        )
        yield* Fiber.interrupt(slow)
        yield* sql`select 1`.pipe(Effect.timeout("3 seconds"))
      }).pipe(Effect.provide(context))
    }))
})
