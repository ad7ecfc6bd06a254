import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import { start } from "../support/worker.ts"
import * as Brokers from "./brokers.ts"
import * as Load from "./load.ts"

const impatient = { connectTimeout: "3 seconds", statementTimeout: "2 seconds" } as const

it.live("sends and attempts survive crashes of the server and of PgBouncer", () =>
  Effect.gen(function*() {
    const server = yield* EmbeddedPostgres.make({ settings: { fsync: false } })
    const pooler = yield* PgBouncer.make(server.url, {
      poolMode: "transaction",
      poolSize: 5,
      settings: { server_login_retry: 1 }
    })
    const context = yield* Brokers.make({
      databaseUrl: pooler.url,
      sessionDatabaseUrl: server.url,
      pgbouncerTransactionMode: true,
      ...impatient
    })
    yield* Effect.gen(function*() {
      yield* start(Load.handler())
      const load = yield* Load.start(4)
      yield* load.progress(100)
      yield* server.restart("immediate")
      yield* load.progress(100)
      yield* pooler.restart
      yield* load.progress(100)
      yield* server.restart("fast")
      yield* load.progress(100)
      yield* load.settle
    }).pipe(Effect.provide(context))
  }), 60_000)

it.live("what PgBouncer cannot do just now can be tried again, what it refuses cannot", () =>
  Effect.gen(function*() {
    const server = yield* EmbeddedPostgres.make({ durable: false })
    yield* Effect.scoped(Brokers.make({ databaseUrl: server.url }))
    /** A pool of one connection; to ask for TLS takes one more. */
    const through = (pooler: PgBouncer.Pooler, change?: { readonly password: string }) => {
      const url = Object.assign(new URL(Redacted.value(pooler.url)), change)
      url.searchParams.set("sslmode", "disable")
      return { databaseUrl: Redacted.make(url.href), pgbouncerTransactionMode: true, poolSize: 1, maxOverflow: 0 }
    }

    const small = yield* PgBouncer.make(server.url, { poolMode: "transaction", settings: { max_client_conn: 1 } })
    yield* Brokers.make(through(small))
    const full = yield* Brokers.refusal(through(small))
    assert.strictEqual(full._tag, "Overloaded")
    assert.include(full.message, "no more connections allowed")

    const pooler = yield* PgBouncer.make(server.url, { poolMode: "transaction", settings: { query_wait_timeout: 1 } })
    const refused = yield* Brokers.refusal(through(pooler, { password: "wrong" }))
    assert.strictEqual(refused._tag, "Refused")
    assert.include(refused.message, "authentication failed")

    yield* server.stop("fast")
    yield* pooler.restart
    const down = yield* Brokers.refusal(through(pooler))
    assert.strictEqual(down._tag, "Unavailable")
    assert.include(down.message, "query_wait_timeout")
  }), 60_000)
