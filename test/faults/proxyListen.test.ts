/** An application that listens through the broker's client. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import * as proxied from "./proxied.ts"

/** idle + interval × count of `proxied.alert`, in milliseconds, and what a slow machine may take on top. */
const bound = 3000
const slack = 500

const makeListener = Effect.fnUntraced(function*() {
  const { proxy, sql, stats } = yield* proxied.makePool({ ...proxied.alert, poolSize: 1, maxOverflow: 1 })
  const scope = yield* Scope.fork(yield* Effect.scope)
  const events = yield* Scope.provide((sql as PgClient).listen("news"), scope)
  return { proxy, sql, stats, scope, events }
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("an application that listens", (it) => {
  it.effect("hears what is notified for as long as it likes, and leaves nothing behind", () =>
    Effect.gen(function*() {
      const { events, scope, sql, stats } = yield* makeListener()
      const observer = yield* SqlClient
      yield* Effect.sleep(bound + slack)
      yield* observer`select pg_notify('news', 'heard')`
      assert.strictEqual((yield* Queue.take(events)).payload, "heard")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* stats).inUse, 0)
      yield* Effect.forEach(Array.from({ length: 2 }), () => sql`select pg_sleep(0.05)`, { concurrency: "unbounded" })
      assert.deepStrictEqual(yield* sql`select pg_listening_channels()`, [])
    }))

  it.effect("is told within the bound that its link is dead", () =>
    Effect.gen(function*() {
      const { events, proxy, sql } = yield* makeListener()
      yield* proxy.freeze()
      const { exit, millis } = yield* proxied.timed(Queue.take(events))
      assert.strictEqual(proxied.brokerErrorOf(exit).reason._tag, "Unavailable")
      assert.isBelow(millis, bound + slack)
      yield* sql`select 1`
    }))

  it.effect("stops at once, also on a dead link", () =>
    Effect.gen(function*() {
      const { proxy, scope, stats } = yield* makeListener()
      yield* proxy.freeze()
      const { millis } = yield* proxied.timed(Scope.close(scope, Exit.void))
      assert.isBelow(millis, 300)
      assert.strictEqual((yield* stats).inUse, 0)
    }))
})
