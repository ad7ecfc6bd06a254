import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import * as proxied from "./proxied.ts"

const single: proxied.Settings = { poolSize: 1, maxOverflow: 0 }

const terminate = (applicationName: string) =>
  Effect.flatMap(
    SqlClient,
    (observer) =>
      observer`select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = ${applicationName}`
  )

const ledger = Effect.fnUntraced(function*() {
  const observer = yield* SqlClient
  yield* observer`drop table if exists ledger`
  yield* observer`create table ledger (n int primary key)`
  return Effect.map(observer<{ readonly n: number }>`select n from ledger order by n`, (rows) => rows.map(({ n }) => n))
})

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", {}) {}

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a transaction", (it) => {
  it.effect("whose connection is lost fails as a statement does, not with a defect, and leaves nothing behind", () =>
    Effect.gen(function*() {
      const rows = yield* ledger()
      const { applicationName, proxy, sql } = yield* proxied.makePool(single)
      const losses: ReadonlyArray<readonly [string, Effect.Effect<unknown, SqlError, SqlClient>]> = [
        ["between statements", Effect.andThen(terminate(applicationName), sql`select 1`)],
        [
          "during a statement",
          Effect.all([
            sql`select pg_sleep(10)`,
            Effect.andThen(Effect.sleep("100 millis"), terminate(applicationName))
          ], { concurrency: 2 })
        ],
        ["by an RST", Effect.andThen(proxy.reset, sql`select 1`)],
        ["in the middle of a statement", Effect.andThen(proxy.cut("requests"), sql`select 1`)],
        ["in the middle of an answer", Effect.andThen(proxy.cut("answers"), sql`select repeat('x', 1000)`)]
      ]
      for (const [when, loss] of losses) {
        const { exit } = yield* proxied.timed(
          sql.withTransaction(Effect.andThen(sql`insert into ledger values (1)`, loss))
        )
        const error = proxied.brokerErrorOf(exit)
        assert.strictEqual(error.reason._tag, "Unavailable", when)
        assert.isTrue(error.isRetryable, when)
        assert.deepStrictEqual(yield* rows, [], when)
        yield* sql.withTransaction(sql`select 1`)
      }
    }))

  it.effect("whose connection is lost at its commit fails the same way; what became of it only the database knows", () =>
    Effect.gen(function*() {
      const rows = yield* ledger()
      const { proxy, sql } = yield* proxied.makePool({ ...proxied.alert, ...single })
      const { exit } = yield* proxied.timed(
        sql.withTransaction(Effect.andThen(sql`insert into ledger values (1)`, proxy.freeze("answers")))
      )
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
      assert.deepStrictEqual(yield* rows, [1])
      assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
    }))

  it.effect("that fails keeps its own error", () =>
    Effect.gen(function*() {
      const rows = yield* ledger()
      const { sql } = yield* proxied.makePool(single)
      const error = yield* Effect.flip(
        sql.withTransaction(Effect.andThen(sql`insert into ledger values (1)`, Effect.fail(new OutOfStock())))
      )
      assert.strictEqual(error._tag, "OutOfStock")
      assert.deepStrictEqual(yield* rows, [])
    }))

  it.effect("does not hold an interruption up when its link is dead", () =>
    Effect.gen(function*() {
      const { proxy, sql } = yield* proxied.makePool(single)
      const { exit, millis } = yield* proxied.timed(
        sql.withTransaction(Effect.andThen(proxy.freeze(), Effect.never)).pipe(Effect.timeout("200 millis"))
      )
      assert.isTrue(Exit.isFailure(exit))
      assert.isBelow(millis, 200 + 1000 + 500)
      assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
    }))

  it.effect("that nobody ended is not handed to the next", () =>
    Effect.gen(function*() {
      const rows = yield* ledger()
      const { applicationName, sql } = yield* proxied.makePool(single)
      const inside = Effect.flatMap(SqlClient, (observer) =>
        Effect.map(
          observer`select from pg_stat_activity
            where application_name = ${applicationName} and state like 'idle in transaction%'`,
          (rows) => rows.length
        ))
      const reserved = (statements: ReadonlyArray<string>) =>
        Effect.scoped(Effect.gen(function*() {
          const connection = yield* sql.reserve
          for (const statement of statements) yield* Effect.ignore(connection.executeRaw(statement, []))
          return yield* inside
        }))
      const unended = [
        ["begin", "insert into ledger values (1)"],
        ["Start Transaction isolation level serializable", "insert into ledger values (1)"],
        ["begin", "insert into ledger values (1)", "savepoint a", "rollback to savepoint a"],
        ["begin", "select 1 / 0", "commit and chain"],
        ["begin", "select 1 / 0"]
      ]
      for (const statements of unended) {
        assert.strictEqual(yield* reserved(statements), 1, statements.join("; "))
        yield* sql`select 1`
        assert.strictEqual(yield* inside, 0, statements.join("; "))
      }
      yield* sql`begin`
      yield* sql`insert into ledger values (2)`
      assert.deepStrictEqual(yield* rows, [2], "each statement has a connection without a transaction")
    }))

  it.effect("that was ended keeps its connection in the pool", () =>
    Effect.gen(function*() {
      const { sql } = yield* proxied.makePool(single)
      const pid = Effect.map(sql<{ readonly pid: number }>`select pg_backend_pid() as pid`, ([row]) => row!.pid)
      const first = yield* pid
      yield* sql.withTransaction(sql.withTransaction(sql`select 1`))
      yield* Effect.ignore(sql.withTransaction(sql`select 1 / 0`))
      for (const end of ["commit", "END", " rollback ", "Abort"]) {
        yield* Effect.scoped(Effect.flatMap(sql.reserve, (connection) =>
          Effect.andThen(connection.executeRaw("begin", []), connection.executeRaw(end, []))))
      }
      assert.strictEqual(yield* pid, first)
    }))
})
