/** Settings that the server is told, or that decide how it is found. */
import { assert, layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inspect } from "node:util"
import { Broker } from "../../src/Broker.ts"
import * as brokers from "../faults/brokers.ts"
import * as proxied from "../faults/proxied.ts"
import { listenerOf } from "../faults/session.ts"
import * as FaultProxy from "../support/FaultProxy.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { Echo } from "../worker/tasks.ts"

/** The URL of the test's database, changed. */
const changed = Effect.fnUntraced(function*(change: (url: URL) => void) {
  const url = new URL(Redacted.value((yield* TestDatabase).url))
  change(url)
  return Redacted.make(url.href)
})

const nameOf = (sql: SqlClient) =>
  Effect.map(
    sql<{ readonly name: string }>`select current_setting('application_name') as name`,
    ([row]) => row!.name
  )

const settingOf = (sql: SqlClient, name: string) =>
  Effect.map(sql<{ readonly value: string }>`select current_setting(${name}) as value`, ([row]) => row!.value)

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a URL", (it) => {
  it.effect("may have credentials with every character", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const name = "rôle @:/?#[]%"
      const password = "p@ss:w/o?r#d[%] ü"
      yield* sql.unsafe(`create role "${name}" login password '${password}'`)
      yield* Effect.addFinalizer(() => Effect.orDie(sql.unsafe(`drop role "${name}"`)))
      const url = yield* changed((url) => {
        url.username = encodeURIComponent(name)
        url.password = encodeURIComponent(password)
      })
      const { sql: own } = yield* proxied.poolOf({ databaseUrl: url })
      assert.deepStrictEqual(yield* own`select current_user::text as name`, [{ name }])
    }))

  it.effect("may lead to an IPv6 address, and to a unix socket", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const folder = mkdtempSync(join(tmpdir(), "horsies-"))
      yield* Effect.addFinalizer(() => Effect.sync(() => rmSync(folder, { recursive: true })))
      const overIPv6 = yield* FaultProxy.make(url, { host: "::1" })
      const overSocket = yield* FaultProxy.make(url, { path: join(folder, ".s.PGSQL.5432") })
      const urls = [
        [
          overIPv6,
          yield* changed((url) => {
            url.hostname = "[::1]"
            url.port = String(overIPv6.port)
          })
        ],
        [
          overSocket,
          yield* changed((url) => {
            url.port = "5432"
            url.searchParams.set("host", folder)
          })
        ]
      ] as const
      for (const [proxy, databaseUrl] of urls) {
        const { sql } = yield* proxied.poolOf({ databaseUrl, poolSize: 1 })
        yield* sql`select 1`
        yield* listenerOf({ databaseUrl })
        assert.isAtLeast(proxy.counters().accepted, 2)
      }
    }))

  it.effect("may carry application_name, options and connect_timeout", () =>
    Effect.gen(function*() {
      const databaseUrl = yield* changed((url) => {
        url.search = "application_name=from%20the%20URL&options=-c%20work_mem%3D1234kB"
      })
      const { sql } = yield* proxied.poolOf({ databaseUrl })
      assert.strictEqual(yield* nameOf(sql), "from the URL")
      assert.strictEqual(yield* settingOf(sql, "work_mem"), "1234kB")

      const { options, proxy } = yield* proxied.make()
      yield* proxy.set({ newLinks: "swallow" })
      const impatient = new URL(Redacted.value(options.databaseUrl))
      impatient.searchParams.set("connect_timeout", "1")
      const { exit, millis } = yield* proxied.timed(proxied.poolOf({ databaseUrl: Redacted.make(impatient.href) }))
      assert.isTrue(Exit.isFailure(exit))
      assert.isBelow(millis, 1500)
    }))

  it.effect("of the session takes LISTEN, heartbeats and migrations; the other takes the rest", () =>
    Effect.gen(function*() {
      const databaseUrl = yield* changed((url) => url.searchParams.set("application_name", "ordinary"))
      const sessionDatabaseUrl = yield* changed((url) => url.searchParams.set("application_name", "session"))
      const context = yield* brokers.make({ databaseUrl, sessionDatabaseUrl })
      yield* Effect.provideContext(Echo.send({ text: "hello" }), context)
      yield* Context.get(context, Broker).heartbeat("00000000-0000-7000-8000-000000000000", [])
      const observer = yield* SqlClient
      yield* proxied.until(
        "the wake-up is on its way",
        Effect.map(
          observer`select from pg_stat_activity where application_name = 'ordinary' and query <> ''`,
          (rows) => rows.length > 0
        )
      )
      const rows = yield* observer<{ readonly name: string; readonly query: string }>`
        select application_name as name, query from pg_stat_activity where application_name in ('ordinary', 'session')`
      const of = (name: string) => rows.filter((row) => row.name === name).map(({ query }) => query).join("\n")
      assert.match(of("session"), /LISTEN|pg_notify/)
      assert.match(of("session"), /horsies_heartbeats/)
      assert.notMatch(of("ordinary"), /LISTEN|horsies_heartbeats|create table/)
      assert.match(of("ordinary"), /horsies_tasks|set_config/)
      assert.strictEqual(rows.filter(({ name }) => name === "session").length, 2)
    }))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("the URL of the session", (it) => {
  it.effect("is where migrations run: the other one's role may make no tables", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* sql`create role reader login password 'reader'`
      yield* Effect.addFinalizer(() =>
        Effect.orDie(Effect.andThen(sql`drop owned by reader cascade`, sql`drop role reader`))
      )
      const databaseUrl = yield* changed((url) => {
        url.username = "reader"
        url.password = "reader"
      })
      const { url: sessionDatabaseUrl } = yield* TestDatabase
      const settings = { databaseUrl, sessionDatabaseUrl, schema: "migrated" }
      yield* sql`create schema migrated`
      yield* sql`grant usage on schema migrated to reader`
      yield* sql`alter default privileges in schema migrated grant select, insert, update, delete on tables to reader`
      const { sql: own } = yield* proxied.poolOf(settings)
      assert.isTrue(Exit.isFailure(yield* Effect.exit(own`create table migrated.mine (n int)`)))
      const context = yield* brokers.make(settings)
      yield* Effect.provideContext(Echo.send({ text: "hello" }), context)
      const owners = yield* sql`select distinct tableowner = current_user as ours from pg_tables
        where schemaname = 'migrated'`
      assert.deepStrictEqual(owners, [{ ours: true }])
    }))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("the server", (it) => {
  it.effect("knows every connection by applicationName: pool, listener and heartbeats", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const context = yield* brokers.make({ databaseUrl: url, applicationName: "named" })
      yield* Context.get(context, Broker).heartbeat("00000000-0000-7000-8000-000000000000", [])
      const byDefault = yield* proxied.poolOf({ databaseUrl: url })
      assert.strictEqual(yield* nameOf(byDefault.sql), "effect-horsies")
      yield* proxied.until("pool and sessions", Effect.map(proxied.sessions("named"), (count) => count === 5 + 2))
      const observer = yield* SqlClient
      const doing = (what: string) =>
        Effect.map(
          observer`select from pg_stat_activity where application_name = 'named' and query like ${what}`,
          (rows) => rows.length
        )
      assert.strictEqual(yield* doing("%horsies_heartbeats%"), 1)
      assert.strictEqual(yield* doing("LISTEN%"), 1)
    }))

  it.effect("ends a statement after statementTimeout; without one it takes the time it needs", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const { sql } = yield* proxied.poolOf({ databaseUrl: url, statementTimeout: "300 millis" })
      const { exit, millis } = yield* proxied.timed(sql`select pg_sleep(2)`)
      const { isRetryable, reason } = proxied.brokerErrorOf(exit)
      assert.deepInclude({ ...reason, isRetryable }, { _tag: "Unavailable", sqlState: "57014", isRetryable: true })
      assert.isBelow(millis, 1000)
      const unlimited = yield* proxied.poolOf({ databaseUrl: url })
      assert.strictEqual(yield* settingOf(unlimited.sql, "statement_timeout"), "0")
      yield* unlimited.sql`select pg_sleep(0.5)`
    }))

  it.effect("gives a lock up after lockTimeout", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const observer = yield* SqlClient
      const { sql } = yield* proxied.poolOf({ databaseUrl: url, lockTimeout: "200 millis" })
      yield* observer`create table locked (n int)`
      const { exit, millis } = yield* observer.withTransaction(
        Effect.andThen(observer`lock table locked in exclusive mode`, proxied.timed(sql`insert into locked values (1)`))
      )
      const { isRetryable, reason } = proxied.brokerErrorOf(exit)
      assert.deepInclude({ ...reason, isRetryable }, { _tag: "Conflict", sqlState: "55P03", isRetryable: true })
      assert.isBelow(millis, 1000)
    }))

  it.effect("is given up after connectTimeout when it does not answer", () =>
    Effect.gen(function*() {
      const { options, proxy } = yield* proxied.make({ connectTimeout: "400 millis" })
      yield* proxy.set({ newLinks: "swallow" })
      for (const attempt of [Effect.asVoid(proxied.poolOf(options)), Effect.asVoid(listenerOf(options))]) {
        const { exit, millis } = yield* proxied.timed(attempt)
        const error = yield* Effect.flip(exit)
        assert.isTrue(error._tag === "BrokerError" && error.isRetryable)
        assert.isBelow(millis, 1000)
      }
    }))

  it.effect("must encrypt when ssl says so, whatever sslmode the URL has", () =>
    Effect.gen(function*() {
      const databaseUrl = yield* changed((url) => url.searchParams.set("sslmode", "disable"))
      const error = yield* Effect.flip(proxied.poolOf({ databaseUrl, ssl: "require" }))
      assert.match(error.message, /does not support TLS/)
      yield* proxied.poolOf({ databaseUrl })
      const demanding = yield* changed((url) => url.searchParams.set("sslmode", "require"))
      yield* proxied.poolOf({ databaseUrl: demanding, ssl: "prefer" })
    }))

  it.effect("gets the tables in schema, unless migrate: false finds none", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const observer = yield* SqlClient
      const tables = Effect.map(
        observer`select from pg_tables where schemaname = 'jobs' and tablename = 'horsies_tasks'`,
        (rows) => rows.length
      )
      const refused = yield* brokers.refusal({ databaseUrl: url, schema: "jobs", migrate: false })
      assert.strictEqual(refused._tag, "SchemaMismatch")
      assert.strictEqual(yield* tables, 0)
      const context = yield* brokers.make({ databaseUrl: url, schema: "jobs" })
      assert.strictEqual(yield* tables, 1)
      yield* Effect.provideContext(Echo.send({ text: "hello" }), context)
      assert.strictEqual((yield* observer`select from jobs.horsies_tasks`).length, 1)
      yield* brokers.make({ databaseUrl: url, schema: "jobs", migrate: false })
    }))

  it.effect("is sent no named statements by a pool that is a transaction pool", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const named = Effect.fnUntraced(function*(settings: proxied.Settings) {
        const { sql } = yield* proxied.poolOf({ databaseUrl: url, poolSize: 1, maxOverflow: 0, ...settings })
        yield* sql.withTransaction(sql`select ${1}::int`)
        const [row] = yield* sql.unsafe<{ readonly count: number }>(
          "select count(*)::int as count from pg_prepared_statements"
        ).unprepared
        return row!.count
      })
      assert.strictEqual(yield* named({ pgbouncerTransactionMode: true }), 0)
      assert.isAbove(yield* named({}), 0)
    }))

  it.effect("never gives a password away in what it refuses", () =>
    Effect.gen(function*() {
      const secret = "hunter2"
      const wrong = yield* changed((url) => (url.password = secret))
      const nowhere = yield* changed((url) => {
        url.password = secret
        url.hostname = "nowhere.invalid"
      })
      const closed = yield* changed((url) => {
        url.password = secret
        url.port = "1"
      })
      for (const databaseUrl of [wrong, nowhere, closed]) {
        const attempts = [Effect.asVoid(proxied.poolOf({ databaseUrl })), Effect.asVoid(listenerOf({ databaseUrl }))]
        for (const attempt of attempts) {
          const exit = yield* Effect.exit(attempt)
          assert.isTrue(Exit.isFailure(exit))
          const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty
          const error = Cause.squash(cause)
          const shown = [String(error), Cause.pretty(cause), JSON.stringify(error), inspect(error, { depth: 20 })]
          for (const text of shown) assert.notInclude(text, secret)
        }
      }
    }))
})
