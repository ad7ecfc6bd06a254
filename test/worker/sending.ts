/** What a send promises, seen from who sends. */
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import { type It, start } from "../support/worker.ts"
import { Charge, Echo, Held } from "./tasks.ts"

export const sending = (it: It) => {
  it.effect("says so when there is no such task", () =>
    Effect.gen(function*() {
      const id = yield* Task.makeId
      const error = yield* Effect.flip(Echo.await(id))
      assert.strictEqual(error._tag, "TaskNotFound")
      const old = "01890000-0000-7000-8000-000000000000"
      assert.instanceOf(yield* Effect.flip(Echo.await(old)), Task.ResultNotKept)
      assert.deepStrictEqual(yield* Broker.use((broker) => broker.find(id)), Option.none())
    }))

  it.effect("fails with a wait that was too long, and the task goes on", () =>
    Effect.gen(function*() {
      const go = yield* Deferred.make<void>()
      yield* start(Held.toLayer(({ n }) => Effect.as(Deferred.await(go), n)))
      const handle = yield* Held.send({ n: 4 })
      const error = yield* Effect.flip(handle.awaitFor("20 millis"))
      assert.instanceOf(error, Task.WaitTimedOut)
      assert.strictEqual(error.message, `task ${handle.id} has not ended within 20ms`)
      assert.strictEqual((yield* Effect.flip(Held.awaitFor(handle.id, "20 millis")))._tag, "WaitTimedOut")
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* handle.awaitFor("5 seconds"), 4)
    }))

  it.effect("a send with an id can be repeated, and says so", () =>
    Effect.gen(function*() {
      const id = yield* Task.makeId
      const first = yield* Echo.send({ text: "once" }, { id })
      assert.deepStrictEqual([first.id, first.duplicate], [id, false])
      const again = yield* Echo.send({ text: "once" }, { id })
      assert.deepStrictEqual([again.id, again.duplicate], [id, true])
      const other = yield* Effect.flip(Echo.send({ text: "other" }, { id }))
      assert.strictEqual(other._tag, "IdTaken")
      yield* start(Echo.toLayer(({ text }) => Effect.succeed(text)))
      assert.strictEqual(yield* again.await, "once")
      assert.isTrue((yield* Echo.send({ text: "once" }, { id })).duplicate)
    }))

  it.effect("gives the handle of the first task with the same idempotency key", () =>
    Effect.gen(function*() {
      const first = yield* Charge.send({ order: "a", tries: 1 })
      const again = yield* Charge.send({ order: "a", tries: 2 })
      const other = yield* Charge.send({ order: "b", tries: 1 })
      const given = yield* Charge.send({ order: "a", tries: 3 }, { idempotencyKey: "b" })
      assert.deepStrictEqual([again.id, again.duplicate], [first.id, true])
      assert.deepStrictEqual([given.id, given.duplicate], [other.id, true])
      assert.isFalse(first.duplicate || other.duplicate)
      yield* start(Charge.toLayer(({ tries }) => Effect.succeed(tries)))
      assert.strictEqual(yield* again.await, 1)
    }))
}
