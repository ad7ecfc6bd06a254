/** Dead links between the broker and a pooler: the pooler's own process ids say nothing of who is at work for whom. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { SqlClient } from "effect/sql/SqlClient"
import { SqlClient as Client } from "effect/sql/SqlClient"
import * as FaultProxy from "../support/FaultProxy.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { start } from "../support/worker.ts"
import { Echo } from "../worker/tasks.ts"
import * as brokers from "./brokers.ts"
import * as proxied from "./proxied.ts"

/** idle + interval × count of `proxied.alert`, in milliseconds, and what a slow machine may take on top. */
const bound = 3000
const slack = 500

/** A proxy before a pooler of this kind, and settings that lead through both. */
const makePooler = Effect.fnUntraced(function*(
  options: PgBouncer.Options,
  settings: proxied.Settings = {}
) {
  const { url } = yield* TestDatabase
  const pooler = yield* PgBouncer.make(url, options)
  const proxy = yield* FaultProxy.make(pooler.url)
  const transactions = options.poolMode === "transaction"
  return {
    proxy,
    server: url,
    options: {
      ...proxied.alert,
      databaseUrl: proxy.through(pooler.url),
      pgbouncerTransactionMode: transactions,
      ...settings
    }
  }
})

/** Fails as a lost connection does, within the bound; the pool works again at once. */
const assertLost = Effect.fnUntraced(function*<A, E>(sql: SqlClient, statement: Effect.Effect<A, E>) {
  const { exit, millis } = yield* proxied.timed(statement)
  assert.isBelow(millis, bound + slack)
  const error = proxied.brokerErrorOf(exit)
  assert.strictEqual(error.reason._tag, "Unavailable")
  assert.isTrue(error.isRetryable)
  assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
})

/** Waits until the server works on a statement, whoever sent it. */
const underway = (statement: string) =>
  proxied.until(
    `${statement} is under way`,
    Effect.flatMap(Client, (observer) =>
      Effect.map(
        observer`select from pg_stat_activity where query = ${statement} and state = 'active'`,
        (rows) => rows.length > 0
      ))
  )

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a dead link to a pooler", (it) => {
  const ways = (["transaction", "session"] as const).flatMap((poolMode) =>
    [true, false].map((split) => ({ poolMode, split }))
  )
  it.effect("ends a statement and a transaction within the bound, whatever the pooler and the session URL", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      yield* Effect.forEach(ways, ({ poolMode, split }) =>
        Effect.gen(function*() {
          const { options, proxy } = yield* makePooler({ poolMode }, split ? { sessionDatabaseUrl: url } : {})
          const { sql } = yield* proxied.poolOf({ ...options, poolSize: 1, maxOverflow: 0 })
          yield* sql`select 1`
          yield* proxy.freeze()
          yield* assertLost(sql, sql`select 'lone'`)
          yield* assertLost(
            sql,
            sql.withTransaction(Effect.andThen(Effect.andThen(sql`select 1`, proxy.freeze()), sql`select 'inside'`))
          )
          yield* sql`select 1`
          yield* proxy.freeze("answers")
          yield* assertLost(sql, sql`select 'answered to nobody'`)
        }), { concurrency: "unbounded" })
    }))

  it.effect("ends a statement whose server works on it as soon as it does not any more", () =>
    Effect.gen(function*() {
      const { options, proxy, server } = yield* makePooler({ poolMode: "transaction" })
      const { sql } = yield* proxied.poolOf({ ...options, sessionDatabaseUrl: server, poolSize: 1, maxOverflow: 0 })
      const statement = "select pg_sleep(2.0)"
      const running = yield* Effect.forkChild(proxied.timed(sql.unsafe(statement)))
      yield* underway(statement)
      yield* proxy.freeze()
      const { exit, millis } = yield* Fiber.join(running)
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
      assert.isAtLeast(millis, 2000)
      assert.isBelow(millis, 2000 + bound + slack)
    }))

  it.effect("ends each try of a send within the bound; the next one succeeds, and a worker goes on", () =>
    Effect.gen(function*() {
      const { options, proxy, server } = yield* makePooler({ poolMode: "transaction" })
      const context = yield* brokers.make({ ...options, sessionDatabaseUrl: server })
      const ran = yield* Deferred.make<void>()
      yield* Effect.gen(function*() {
        yield* start(
          Echo.toLayer(({ text }) => Effect.as(text === "last" ? Deferred.succeed(ran, undefined) : Effect.void, text)),
          {}
        )
        assert.strictEqual(yield* Effect.flatMap(Echo.send({ text: "first" }), (handle) => handle.await), "first")
        yield* proxy.freeze("answers")
        // It is tried twice, and the second link may be dead as well.
        const { exit, millis } = yield* proxied.timed(Echo.send({ text: "lost" }))
        assert.isBelow(millis, 2 * bound + slack)
        yield* Effect.catch(
          exit,
          (error) => Effect.sync(() => assert.isTrue(error._tag === "BrokerError" && error.isRetryable))
        )
        yield* Echo.send({ text: "last" })
        yield* Effect.timeout(Deferred.await(ran), bound + 2000)
      }).pipe(Effect.provideContext(Context.merge(yield* Effect.context<never>(), context) as typeof context))
    }))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a good link to a pooler", (it) => {
  /** Seconds: longer than the bound. */
  const long = "4"

  it.effect("lets a statement take longer than the bound when the server is seen at work: over the session URL", () =>
    Effect.gen(function*() {
      const { options, server } = yield* makePooler({ poolMode: "transaction", poolSize: 1 })
      const { sql } = yield* proxied.poolOf({ ...options, sessionDatabaseUrl: server, poolSize: 1, maxOverflow: 0 })
      yield* sql`select pg_sleep(${long}::float8)`
      // In a transaction, and longer than what the server shows of it.
      yield* sql.withTransaction(sql.unsafe(`select pg_sleep(${long}), '${"ä".repeat(1000)}'`))
    }))

  it.effect("and over the pool itself, where there is no session URL", () =>
    Effect.gen(function*() {
      const { options } = yield* makePooler({ poolMode: "transaction" })
      const { sql } = yield* proxied.poolOf({ ...options, poolSize: 2, maxOverflow: 0 })
      yield* sql`select pg_sleep(${long}::float8)`
    }))

  it.effect("ends at the bound what nobody can be seen to work on, but for what has a limit of its own", () =>
    Effect.gen(function*() {
      // The question would wait for the very statement that it is about.
      const { options } = yield* makePooler({ poolMode: "transaction", poolSize: 1 })
      const { sql } = yield* proxied.poolOf({ ...options, poolSize: 1, maxOverflow: 0 })
      const { exit, millis } = yield* proxied.timed(sql`select pg_sleep(30)`)
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
      assert.isBelow(millis, bound + slack)
      const limited = yield* proxied.poolOf({ ...options, poolSize: 1, maxOverflow: 0, statementTimeout: "10 seconds" })
      const good = yield* proxied.timed(limited.sql`select pg_sleep(${long}::float8)`)
      assert.isTrue(Exit.isSuccess(good.exit))
    }))

  it.effect("a limit ends a lone statement through a transaction pool, too", () =>
    Effect.gen(function*() {
      const { options } = yield* makePooler({ poolMode: "transaction" })
      const { sql } = yield* proxied.poolOf({ ...options, statementTimeout: "300 millis" })
      const { exit, millis } = yield* proxied.timed(sql`select pg_sleep(30)`)
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
      assert.isBelow(millis, 1800)
      assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
    }))
})
