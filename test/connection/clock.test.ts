/** Sockets live in real time, whatever clock a test has put in its place. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as proxied from "../faults/proxied.ts"
import { listenerOf } from "../faults/session.ts"

describe("under a clock that stands still", () => {
  it.effect("pool and session connect, wait, and give up when they should", () =>
    Effect.gen(function*() {
      const { options, proxy } = yield* proxied.make({
        ...proxied.alert,
        connectTimeout: "300 millis",
        poolTimeout: "300 millis",
        statementTimeout: "300 millis",
        poolSize: 1,
        maxOverflow: 0
      })
      const { sql } = yield* proxied.poolOf(options)
      yield* listenerOf(options)
      yield* sql`select 1`
      const full = yield* proxied.timed(Effect.scoped(Effect.andThen(sql.reserve, Effect.exit(sql`select 1`))))
      assert.isBelow(full.millis, 1000)
      yield* proxy.freeze()
      const late = yield* proxied.timed(Effect.flip(sql`select 1`))
      assert.isBelow(late.millis, 2000)
      yield* proxy.set({ newLinks: "swallow" })
      const mute = yield* proxied.timed(Effect.flip(proxied.poolOf(options)))
      assert.isBelow(mute.millis, 1000)
      for (const { exit } of [full, late, mute]) assert.strictEqual(exit._tag, "Success")
    }).pipe(Effect.provide(proxied.observer)), 15_000)
})
