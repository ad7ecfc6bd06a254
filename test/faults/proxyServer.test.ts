/** What a server does to its clients: restarts, limits, passwords, read-only mode. A server of the file's own. */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { SessionListener } from "../../src/connection/SessionListener.ts"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"
import { start } from "../support/worker.ts"
import { Echo } from "../worker/tasks.ts"
import * as brokers from "./brokers.ts"
import * as proxied from "./proxied.ts"
import { listenerOf, reconnected } from "./session.ts"

/** Connections that the server has for those who are no superusers; the observer's counts, too. */
const slots = 10

const Server = Layer.provideMerge(
  Layer.unwrap(Effect.map(
    EmbeddedPostgres.EmbeddedPostgres,
    ({ url }) => PgClient.layer({ url, maxConnections: 1, applicationName: "observer" })
  )),
  // Durable: what is committed has to be there after a crash.
  EmbeddedPostgres.layer({ settings: { max_connections: 10 + slots, superuser_reserved_connections: 10 } })
).pipe(Layer.provideMerge(Layer.succeed(References.MinimumLogLevel, "Error")))

const password = "s3cret-of-app"

/** A role without privileges of the server's, and the URL with which it comes in. */
const makeRole = Effect.fnUntraced(function*(name: string) {
  const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
  const sql = yield* SqlClient
  yield* sql.unsafe(`create role ${name} login password '${password}'`)
  const own = new URL(Redacted.value(url))
  own.username = name
  own.password = password
  return Redacted.make(own.href)
})

layer(Server, { excludeTestServices: true, timeout: "60 seconds" })("a server", (it) => {
  for (const mode of ["fast", "immediate"] as const) {
    it.effect(`that is restarted (${mode}): senders, workers and sessions are back by themselves`, () =>
      Effect.gen(function*() {
        const server = yield* EmbeddedPostgres.EmbeddedPostgres
        const context = yield* brokers.make({ databaseUrl: server.url })
        const listener = Context.get(context, SessionListener)
        const send = Effect.provideContext(Echo.send({ text: "hello" }), context)
        yield* start(Echo.toLayer(({ text }) => Effect.succeed(text)), {}).pipe(
          Effect.provideContext(Context.merge(yield* Effect.context<never>(), context) as typeof context)
        )
        const events = yield* listener.subscribe("news")
        assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
        assert.strictEqual(
          yield* Effect.flatMap(send, (handle) => Effect.provideContext(handle.await, context)),
          "hello"
        )

        yield* server.stop(mode)
        for (let i = 0; i < 3; i++) {
          const { exit, millis } = yield* proxied.timed(Effect.flip(send))
          const error = yield* exit
          assert.isTrue(error._tag === "BrokerError" && error.isRetryable, String(error))
          assert.isBelow(millis, 1000, "nobody waits for a server that is not there")
        }
        assert.strictEqual(SubscriptionRef.getUnsafe(listener.state).status, "reconnecting")
        yield* server.start
        assert.strictEqual(
          yield* Effect.flatMap(send, (handle) => Effect.provideContext(handle.await, context)),
          "hello"
        )
        yield* Effect.timeout(reconnected(listener, 1), "6 seconds")
        assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
      }))
  }

  it.effect("that has no connection left is overloaded: trying again helps when others have gone", () =>
    Effect.gen(function*() {
      const url = yield* makeRole("crowd")
      const { sql } = yield* proxied.poolOf({ databaseUrl: url, poolSize: 2, maxOverflow: 18 })
      const results = yield* Effect.forEach(
        Array.from({ length: 20 }),
        () => Effect.exit(sql`select pg_sleep(0.5)`),
        { concurrency: "unbounded" }
      )
      const errors = results.filter(Exit.isFailure).map(proxied.brokerErrorOf)
      assert.isAbove(errors.length, 0)
      assert.isAbove(results.length - errors.length, 0)
      for (const { isRetryable, reason } of errors) {
        assert.deepInclude({ ...reason, isRetryable }, { _tag: "Overloaded", sqlState: "53300", isRetryable: true })
      }
      yield* Effect.forEach(Array.from({ length: 5 }), () => sql`select 1`)
    }))

  it.effect("that has no connection left for a session says so in its state; it is back when others have gone", () =>
    Effect.gen(function*() {
      const url = yield* makeRole("newcomer")
      const observer = yield* SqlClient
      const listener = yield* listenerOf({ databaseUrl: url, applicationName: "newcomer" })
      const events = yield* listener.subscribe("news")
      assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
      const crowd = yield* Scope.fork(yield* Effect.scope)
      const { sql, stats } = yield* Scope.provide(
        proxied.poolOf({ databaseUrl: url, poolSize: 1, maxOverflow: 19 }),
        crowd
      )
      yield* proxied.until(
        "every place is taken, the session's too",
        Effect.gen(function*() {
          // Whoever is quicker has it: the session may be back before.
          yield* observer`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'newcomer'`
          yield* Effect.exit(Effect.timeout(Scope.provide(sql.reserve, crowd), "300 millis"))
          return (yield* stats).open === slots - 1
        })
      )
      const { reconnects } = yield* SubscriptionRef.get(listener.state)
      yield* proxied.until(
        "the session says why it is not connected",
        Effect.map(
          SubscriptionRef.get(listener.state),
          ({ lastError, status }) => status === "reconnecting" && /connection slots|too many/.test(lastError ?? "")
        )
      )
      yield* Queue.clear(events)
      yield* Scope.close(crowd, Exit.void)
      yield* Effect.timeout(reconnected(listener, reconnects + 1), "6 seconds")
      assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
      yield* observer`select pg_notify('news', 'heard')`
      assert.deepStrictEqual(yield* Queue.take(events), { _tag: "Notified", payload: "heard" })
    }))

  it.effect("that ends idle sessions does not trouble anybody", () =>
    Effect.gen(function*() {
      const url = yield* makeRole("idler")
      const observer = yield* SqlClient
      yield* observer`alter role idler set idle_session_timeout = '1500ms'`
      const { sql } = yield* proxied.poolOf({ databaseUrl: url })
      const listener = yield* listenerOf({ databaseUrl: url })
      const events = yield* listener.subscribe("news")
      // At the very time at which the server ends the session.
      for (const idle of [1450, 1480, 1500, 1520, 1550]) {
        yield* sql`select 1`
        yield* Effect.sleep(idle)
      }
      // Told to look again after each time, so nothing is missed.
      const { reconnects } = yield* SubscriptionRef.get(listener.state)
      assert.isAbove(reconnects, 2)
      assert.isAbove((yield* Queue.takeAll(events)).filter(({ _tag }) => _tag === "LookAgain").length, reconnects - 1)
    }))

  it.effect("whose password for us has expired says that trying again does not help, until it is renewed", () =>
    Effect.gen(function*() {
      const url = yield* makeRole("guest")
      const observer = yield* SqlClient
      const { sql } = yield* proxied.poolOf({ databaseUrl: url, poolSize: 1, maxOverflow: 1 })
      const listener = yield* listenerOf({ databaseUrl: url })
      yield* observer`alter role guest valid until 'yesterday'`

      // The one connection that there is goes on; a second one is refused.
      const error = proxied.brokerErrorOf(
        yield* Effect.exit(sql.withTransaction(sql.reserve.pipe(Effect.scoped)))
      )
      assert.deepInclude({ ...error.reason }, { _tag: "Refused", sqlState: "28P01" })
      assert.isFalse(error.isRetryable)
      assert.notInclude(String(error) + JSON.stringify(error), password)
      const building = yield* Effect.flip(proxied.poolOf({ databaseUrl: url }))
      assert.isTrue(building._tag === "BrokerError" && building.reason._tag === "Refused")

      yield* observer`select pg_terminate_backend(pid) from pg_stat_activity
        where usename = 'guest' and query like 'select pg_notify%'`
      yield* proxied.until(
        "the session says why it is not connected",
        Effect.map(
          SubscriptionRef.get(listener.state),
          ({ lastError, status }) =>
            status === "reconnecting" && lastError?.includes("password authentication failed") === true
        )
      )
      yield* observer`alter role guest valid until 'tomorrow'`
      yield* reconnected(listener, 1)
      yield* sql.withTransaction(sql.reserve.pipe(Effect.scoped))
    }))

  it.effect("that takes no writes is unavailable to writers, and then is not", () =>
    Effect.gen(function*() {
      const server = yield* EmbeddedPostgres.EmbeddedPostgres
      const observer = yield* SqlClient
      const context = yield* brokers.make({
        databaseUrl: server.url,
        applicationName: "writers",
        poolSize: 1,
        maxOverflow: 0
      })
      const send = Effect.provideContext(Echo.send({ text: "hello" }), context)
      yield* observer`alter role postgres in database postgres set default_transaction_read_only = on`
      const restart =
        observer`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'writers'`
      yield* restart
      yield* Effect.sleep("1100 millis")
      const error = yield* Effect.flip(send)
      assert.strictEqual(error._tag, "BrokerError")
      assert.isTrue(error._tag === "BrokerError" && error.isRetryable)
      assert.deepInclude({ ...(error._tag === "BrokerError" ? error.reason : {}) }, {
        _tag: "Unavailable",
        sqlState: "25006"
      })
      yield* observer.withTransaction(Effect.andThen(
        observer`set transaction read write`,
        observer`alter role postgres in database postgres reset default_transaction_read_only`
      ))
      // The connection that was refused its write is gone; the next one finds a server that takes it.
      yield* send
    }))
})
