import { assert, layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import * as proxied from "./proxied.ts"

/** idle + interval × count of `proxied.alert`, in milliseconds, and what a slow machine may take on top. */
const bound = 3000
const slack = 500

const one: proxied.Settings = { ...proxied.alert, poolSize: 1, maxOverflow: 0 }

const pidOf = (sql: SqlClient) =>
  Effect.map(sql<{ readonly pid: number }>`select pg_backend_pid() as pid`, ([row]) => row!.pid)

/** Fails as a lost connection does, within the bound; the pool works again at once. */
const assertLost = Effect.fnUntraced(function*<A, E>(sql: SqlClient, statement: Effect.Effect<A, E>) {
  const { exit, millis } = yield* proxied.timed(statement)
  assert.isBelow(millis, bound + slack)
  const error = proxied.brokerErrorOf(exit)
  assert.strictEqual(error.reason._tag, "Unavailable")
  assert.isTrue(error.isRetryable)
  assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a statement on a dead link", (it) => {
  it.effect("whose answer is swallowed fails within the bound", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool(one)
      yield* proxy.freeze("answers")
      yield* assertLost(sql, sql`select 1`)
    }))

  it.effect("that never reaches the server fails within the bound", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool(one)
      yield* proxy.freeze("requests")
      yield* assertLost(sql, sql`select 1`)
    }))

  it.effect("fails within the bound also when new links are dead, too", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool(one)
      yield* proxy.freeze()
      yield* proxy.set({ newLinks: "swallow" })
      const { exit, millis } = yield* proxied.timed(sql`select 1`)
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
      assert.isBelow(millis, bound + slack)
    }))

  it.effect("inside a transaction fails within the bound, as a failure and not as a defect", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool(one)
      yield* assertLost(
        sql,
        sql.withTransaction(Effect.andThen(Effect.andThen(sql`select 1`, proxy.freeze("answers")), sql`select 2`))
      )
    }))

  it.effect("fails within the bound when its rows are streamed", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool(one)
      yield* proxy.freeze("answers")
      yield* assertLost(sql, Stream.runDrain(sql`select 1`.stream))
    }))

  it.effect("has its own deadline, where it has one", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool({ poolSize: 1, statementTimeout: "300 millis" })
      yield* proxy.freeze("answers")
      const { exit, millis } = yield* proxied.timed(sql`select 1`)
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
      // A second after the server would have ended it.
      assert.isBelow(millis, 300 + 1000 + slack)
    }))

  it.effect("does not hold an interruption up", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool({ poolSize: 1, maxOverflow: 0 })
      const statements = [
        sql`select pg_sleep(10)`,
        Stream.runDrain(sql`select pg_sleep(10)`.stream),
        sql.withTransaction(sql`select pg_sleep(10)`)
      ]
      for (const statement of statements) {
        yield* proxy.heal
        const { exit, millis } = yield* proxied.timed(Effect.all([
          Effect.timeout(statement, "300 millis"),
          Effect.sleep("100 millis").pipe(
            Effect.andThen(proxy.set({ newLinks: "swallow" })),
            Effect.andThen(proxy.freeze())
          )
        ], { concurrency: 2 }))
        assert.isTrue(Exit.isFailure(exit) && Cause.isTimeoutError(Cause.squash(exit.cause)), String(exit))
        assert.isBelow(millis, 300 + 400 + slack)
      }
    }))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a statement on a good link", (it) => {
  it.effect("may take longer than the bound", () =>
    Effect.gen(function*() {
      const { applicationName, sql } = yield* proxied.makePool(one)
      const pid = yield* pidOf(sql)
      const most = yield* Effect.forkChild(Effect.gen(function*() {
        let most = 0
        for (let i = 0; i < 400; i++) {
          most = Math.max(most, yield* proxied.sessions(applicationName))
          yield* Effect.sleep(10)
        }
        return most
      }))
      yield* sql`select pg_sleep(5)`
      yield* sql.withTransaction(sql`select pg_sleep(1.5)`)
      assert.strictEqual(yield* pidOf(sql), pid)
      assert.isAtMost(yield* Fiber.join(most), 2, "one connection more to ask about it")
    }))

  it.effect("may have an answer that takes longer than the bound to come", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool(one)
      const pid = yield* pidOf(sql)
      yield* proxy.set({ bytesPerSecond: 100_000 })
      const [row] = yield* sql<{ readonly text: string }>`select repeat('x', 450000) as text`
      assert.strictEqual(row?.text.length, 450_000)
      const streamed = yield* sql<{ readonly text: string }>`
        select repeat('x', 1000) as text from generate_series(1, 450)`.stream.pipe(Stream.runCollect)
      assert.strictEqual(streamed.length, 450)
      assert.strictEqual(yield* pidOf(sql), pid)
    }))

  it.effect("may have a consumer that takes longer than the bound", () =>
    Effect.gen(function*() {
      const { sql } = yield* proxied.makePool(one)
      let rows = 0
      // More than the driver reads ahead, and less than the network holds: the server is through with it early.
      yield* sql`select repeat('x', 300) from generate_series(1, 2000)`.stream.pipe(
        Stream.runForEach(() => ++rows === 1 ? Effect.sleep(bound + slack) : Effect.void)
      )
      assert.strictEqual(rows, 2000)
    }))

  it.effect("on which a check began leaves its connection in the pool when it ends meanwhile", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool(one)
      const pid = yield* pidOf(sql)
      // The check takes longer than what is left of the statement, and finds a server that does nothing.
      yield* proxy.set({ delay: 50 })
      yield* sql`select pg_sleep(1.05)`
      yield* Effect.sleep(bound - 1000)
      assert.strictEqual(yield* pidOf(sql), pid)
    }))

  it.effect("is interrupted promptly, and the connection is of use to the next", () =>
    Effect.gen(function*() {
      const { applicationName, sql } = yield* proxied.makePool({ poolSize: 1, maxOverflow: 0 })
      for (let round = 0; round < 3; round++) {
        const { exit, millis } = yield* proxied.timed(Effect.timeout(sql`select pg_sleep(20)`, "200 millis"))
        assert.isTrue(Exit.isFailure(exit) && Cause.isTimeoutError(Cause.squash(exit.cause)))
        assert.isBelow(millis, 600)
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
      }
      const observer = yield* SqlClient
      const running = Effect.map(
        observer`select from pg_stat_activity where application_name = ${applicationName} and query like '%pg_sleep(20)'
          and state = 'active'`,
        (rows) => rows.length === 0
      )
      yield* proxied.until("the server has stopped working for it", running)
    }))

  it.effect("is never cancelled by the interruption of the one before it", () =>
    Effect.gen(function*() {
      const { sql } = yield* proxied.makePool({ poolSize: 1, maxOverflow: 0 })
      for (let round = 0; round < 150; round++) {
        // Ends by itself at about the time at which the driver asks the server to cancel it.
        yield* Effect.ignore(Effect.timeout(sql`select pg_sleep(0.012)`, round % 5))
        yield* sql`select pg_sleep(0.002)`
      }
    }))
})
