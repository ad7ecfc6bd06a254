/** Several hosts: questions about a statement, and tests of a session, go to the host that it is on. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import type { SqlClient } from "effect/sql/SqlClient"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"
import * as FaultProxy from "../support/FaultProxy.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import * as proxied from "./proxied.ts"
import { listenerOf } from "./session.ts"

const one: proxied.Settings = { ...proxied.alert, poolSize: 1, maxOverflow: 0 }

/** Two servers that know nothing of each other, each behind a proxy, and a URL with both. */
const makeHosts = Effect.fnUntraced(function*(target: "any" | "read-write") {
  const { url } = yield* TestDatabase
  const server = yield* EmbeddedPostgres.make({ durable: false })
  const [first, second] = [yield* FaultProxy.make(url), yield* FaultProxy.make(server.url)]
  const { password, pathname } = new URL(Redacted.value(url))
  yield* Effect.scoped(Effect.gen(function*() {
    const { sql } = yield* proxied.poolOf({ databaseUrl: server.url })
    yield* sql.unsafe(`alter role postgres password '${decodeURIComponent(password)}'`)
    yield* sql.unsafe(`create database ${pathname.slice(1)}`)
  }))
  const both = new URL(Redacted.value(url))
  both.search = String(new URLSearchParams({ sslmode: "disable", target_session_attrs: target }))
  const hosts = `127.0.0.1:${first.port},127.0.0.1:${second.port}`
  return { first, second, server, databaseUrl: Redacted.make(both.href.replace(both.host, hosts)) }
})

const portOf = (sql: SqlClient) =>
  Effect.map(sql<{ readonly port: string }>`select current_setting('port') as port`, ([row]) => Number(row!.port))

layer(proxied.observer, { excludeTestServices: true, timeout: "60 seconds" })("on the second of two hosts", (it) => {
  it.effect("a long statement survives when the first one is back", () =>
    Effect.gen(function*() {
      const { databaseUrl, first, server } = yield* makeHosts("any")
      yield* first.set({ newLinks: "refuse" })
      const { sql } = yield* proxied.poolOf({ ...one, databaseUrl })
      assert.strictEqual(yield* portOf(sql), server.port)
      yield* first.heal
      yield* sql`select pg_sleep(6)`
      assert.strictEqual(yield* portOf(sql), server.port)
    }))

  it.effect("a long statement survives while the first one swallows whatever comes", () =>
    Effect.gen(function*() {
      const { databaseUrl, first, server } = yield* makeHosts("read-write")
      yield* first.set({ newLinks: "swallow" })
      const { sql } = yield* proxied.poolOf({ ...one, databaseUrl, connectTimeout: "2 seconds" })
      yield* sql`select pg_sleep(5)`
      assert.strictEqual(yield* portOf(sql), server.port)
    }))

  it.effect("a statement on a dead link ends within the bound, though the first one is back", () =>
    Effect.gen(function*() {
      const { databaseUrl, first, second } = yield* makeHosts("any")
      yield* first.set({ newLinks: "refuse" })
      const { sql } = yield* proxied.poolOf({ ...one, databaseUrl })
      yield* sql`select 1`
      yield* first.heal
      yield* second.freeze()
      const { exit, millis } = yield* proxied.timed(sql`select pg_sleep(30)`)
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
      assert.isBelow(millis, 3000 + 500)
    }))

  it.effect("a session listens, and is tested there", () =>
    Effect.gen(function*() {
      const { databaseUrl, first, second } = yield* makeHosts("any")
      yield* first.set({ newLinks: "refuse" })
      yield* second.set({ delay: 50 })
      const listening = yield* Effect.forkChild(listenerOf({ ...proxied.alert, databaseUrl }))
      yield* proxied.until("the session is being opened", Effect.sync(() => second.counters().accepted > 0))
      yield* first.heal
      yield* Fiber.join(listening)
      assert.strictEqual(second.counters().accepted, 2)
    }))
})
