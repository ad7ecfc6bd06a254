import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as TestBroker from "../support/TestBroker.ts"
import { start } from "../support/worker.ts"
import { Echo } from "../worker/tasks.ts"

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("sends inside transactions", (it) => {
  it.effect("a send in a rolled-back transaction never runs; one in a committed one starts within 50 ms of the commit", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const started: Array<{ readonly text: string; readonly at: number }> = []
      const ran = yield* Deferred.make<void>()
      yield* start(Echo.toLayer(({ text }) =>
        Effect.gen(function*() {
          started.push({ text, at: performance.now() })
          if (text === "last") yield* Deferred.succeed(ran, undefined)
          return text
        })
      ))
      // The worker has looked, found nothing, and waits for a wake-up.
      assert.strictEqual(yield* Effect.flatMap(Echo.send({ text: "warm-up" }), (handle) => handle.await), "warm-up")

      const rolledBack = yield* Effect.flip(sql.withTransaction(
        Effect.andThen(Echo.send({ text: "rolled back" }), Effect.fail("no" as const))
      ))
      assert.strictEqual(rolledBack, "no")

      const delays: Array<number> = []
      for (let round = 0; round < 5; round++) {
        const handle = yield* sql.withTransaction(Effect.gen(function*() {
          const handle = yield* Echo.send({ text: `committed ${round}` })
          // Long enough for anything that does not wait for the commit to show.
          yield* sql`select pg_sleep(0.05)`
          assert.isFalse(started.some(({ text }) => text === `committed ${round}`))
          return handle
        }))
        const committed = performance.now()
        yield* handle.await
        const run = started.find(({ text }) => text === `committed ${round}`)
        assert.isDefined(run)
        delays.push(run!.at - committed)
      }
      yield* Echo.send({ text: "last" })
      yield* Deferred.await(ran)

      assert.isBelow(Math.max(...delays), 50)
      assert.isFalse(started.some(({ text }) => text === "rolled back"))
      assert.deepStrictEqual(yield* sql`select from horsies_tasks where payload->>'text' = 'rolled back'`, [])
    }))
})
