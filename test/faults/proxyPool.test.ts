import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { openSockets } from "../support/FaultProxy.ts"
import * as proxied from "./proxied.ts"

const pidOf = (sql: SqlClient) =>
  Effect.map(sql<{ readonly pid: number }>`select pg_backend_pid() as pid`, ([row]) => row!.pid)

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("the pool's size", (it) => {
  it.effect("lets the 16th caller wait; after poolTimeout it is told the figures of the pool", () =>
    Effect.gen(function*() {
      const { sql, stats } = yield* proxied.makePool({ poolTimeout: "700 millis" })
      const leases = yield* Effect.forEach(Array.from({ length: 15 }), () =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          yield* Scope.provide(sql.reserve, scope)
          return scope
        }), { concurrency: "unbounded" })
      assert.deepStrictEqual(yield* stats, { size: 5, overflow: 10, open: 15, inUse: 15, waiting: 0 })

      const served = yield* Effect.forkChild(sql`select 1 as one`)
      yield* proxied.until("a caller waits", Effect.map(stats, ({ waiting }) => waiting === 1))
      yield* Scope.close(leases[0]!, Exit.void)
      assert.deepStrictEqual(yield* Fiber.join(served), [{ one: 1 }])

      yield* Scope.provide(sql.reserve, yield* Effect.scope)
      const { exit, millis } = yield* proxied.timed(sql`select 1`)
      assert.isAtLeast(millis, 690)
      assert.isBelow(millis, 1200)
      const error = proxied.brokerErrorOf(exit)
      assert.strictEqual(error.reason._tag, "Overloaded")
      assert.isTrue(error.isRetryable)
      assert.strictEqual(
        error.reason.message,
        "no connection within 700ms: the pool has 5 connections and an overflow of 10; 15 are open, 15 in use, 1 waiting"
      )
      yield* Effect.forEach(leases, (lease) => Scope.close(lease, Exit.void), { discard: true })
    }))

  it.effect("poolTimeout bounds the wait, not the statement", () =>
    Effect.gen(function*() {
      const { sql } = yield* proxied.makePool({ poolTimeout: "200 millis" })
      const { exit, millis } = yield* proxied.timed(sql`select pg_sleep(0.6)`)
      assert.isTrue(Exit.isSuccess(exit))
      assert.isAtLeast(millis, 600)
    }))

  it.effect("poolRecycle: a connection that is older is replaced when it is next taken, not before", () =>
    Effect.gen(function*() {
      const { applicationName, sql } = yield* proxied.makePool({
        poolSize: 1,
        maxOverflow: 0,
        poolRecycle: "600 millis"
      })
      const first = yield* pidOf(sql)
      assert.strictEqual(yield* pidOf(sql), first)
      const observer = yield* SqlClient
      const old = Effect.map(
        observer`select from pg_stat_activity where application_name = ${applicationName} and pid = ${first}
          and backend_start < clock_timestamp() - interval '650 milliseconds'`,
        (rows) => rows.length === 1
      )
      yield* proxied.until("the idle connection is old, and still there", old)
      assert.notStrictEqual(yield* pidOf(sql), first)
      yield* proxied.until("the old one is gone", Effect.map(proxied.sessions(applicationName), (count) => count === 1))
    }))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("dead connections of the pool", (it) => {
  it.effect("are not handed out when the server has terminated them", () =>
    Effect.gen(function*() {
      const { applicationName, sql, stats } = yield* proxied.makePool()
      const observer = yield* SqlClient
      for (let round = 0; round < 2; round++) {
        // From when the last one was opened.
        yield* proxied.until("the pool has its connections", Effect.map(stats, ({ open }) => open >= 5))
        yield* proxied.idle(applicationName)
        // One that is being terminated may still answer when it is asked, and not any more after that.
        yield* observer`select pg_terminate_backend(pid, 5000) from pg_stat_activity
          where application_name = ${applicationName}`
        yield* Effect.forEach(Array.from({ length: 20 }), () => sql`select 1`, { concurrency: "unbounded" })
      }
    }))

  it.effect("are not handed out when their links have died silently: the wait is that of one ping", () =>
    Effect.gen(function*() {
      const { applicationName, proxy, sql, stats } = yield* proxied.makePool()
      yield* Effect.forEach(Array.from({ length: 5 }), () => sql`select pg_sleep(0.05)`, { concurrency: "unbounded" })
      const old = yield* pidOf(sql)
      assert.strictEqual((yield* stats).open, 5)
      yield* proxied.idle(applicationName)
      yield* proxy.freeze()
      const { exit, millis } = yield* proxied.timed(
        Effect.forEach(Array.from({ length: 20 }), () => pidOf(sql), { concurrency: "unbounded" })
      )
      assert.isTrue(Exit.isSuccess(exit))
      assert.notInclude(Exit.isSuccess(exit) ? exit.value : [], old)
      assert.isBelow(millis, 1000 + 500)
    }))

  it.effect("poolPrePing: false hands them out", () =>
    Effect.gen(function*() {
      const { applicationName, proxy, sql } = yield* proxied.makePool({
        ...proxied.alert,
        poolPrePing: false,
        poolSize: 1
      })
      yield* pidOf(sql)
      yield* proxied.idle(applicationName)
      yield* proxy.freeze()
      const { exit } = yield* proxied.timed(sql`select 1`)
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
    }))

  it.effect("are looked for only among those that have been idle: a busy one costs no ping", () =>
    Effect.gen(function*() {
      const { applicationName, proxy, sql } = yield* proxied.makePool({ poolSize: 1, maxOverflow: 0 })
      yield* sql`select 1`
      const busy = proxy.counters().requests
      for (let i = 0; i < 50; i++) yield* sql`select 1`
      assert.strictEqual(proxy.counters().requests - busy, 50)
      yield* proxied.idle(applicationName)
      const idle = proxy.counters().requests
      yield* sql`select 1`
      assert.strictEqual(proxy.counters().requests - idle, 2)
    }))

  it.effect("do not reach a caller that waits for one when it is reset", () =>
    Effect.gen(function*() {
      const { proxy, sql, stats } = yield* proxied.makePool({ poolSize: 1, maxOverflow: 0 })
      for (let round = 0; round < 5; round++) {
        const first = yield* Effect.forkChild(Effect.exit(sql`select pg_sleep(10)`))
        yield* proxied.until("it has its connection", Effect.map(stats, ({ inUse }) => inUse === 1))
        const waiting = yield* Effect.forkChild(Effect.all([sql`select 1`, sql`select 2`], { concurrency: 2 }))
        yield* proxied.until("two wait", Effect.map(stats, ({ waiting }) => waiting === 2))
        yield* proxy.reset
        assert.isTrue(proxied.brokerErrorOf(yield* Fiber.join(first)).isRetryable)
        yield* Fiber.join(waiting)
      }
    }))

  it.effect("go with the scope: nothing of a half-open pool stays behind", () =>
    Effect.gen(function*() {
      const { options, proxy } = yield* proxied.make()
      const scope = yield* Scope.make()
      const { sql } = yield* Scope.provide(proxied.poolOf(options), scope)
      yield* Effect.forEach(Array.from({ length: 5 }), () => sql`select pg_sleep(0.05)`, { concurrency: "unbounded" })
      assert.strictEqual(proxy.counters().open, 5)
      yield* proxy.freeze()
      const { millis } = yield* proxied.timed(Scope.close(scope, Exit.void))
      assert.isBelow(millis, 500)
      yield* proxied.until("every socket is closed", Effect.sync(() => openSockets(proxy.port) === 0))
    }))
})
