import { assert, it, layer } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Broker } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import * as Task from "../../src/Task.ts"
import * as DatabaseClock from "../../src/testing/DatabaseClock.ts"
import * as TestWorker from "../../src/testing/TestWorker.ts"
import { brokers, postgres } from "./brokers.ts"
import { define, next, withHandlers } from "./handling.ts"

for (const [name, broker] of Object.entries(brokers)) {
  layer(broker)(`draining over ${name}`, (it) => {
    it.effect("drain runs what handlers send, down to the last", () => {
      const { More, Work } = define("recursive")
      return Effect.gen(function*() {
        yield* Work.send({ n: 3 })
        const records = yield* TestWorker.drain()
        assert.deepStrictEqual(records.map(({ name, payload }) => [name, JSON.parse(payload).n]), [
          [Work._tag, 3],
          [More._tag, 2],
          [Work._tag, 1],
          [More._tag, 0]
        ])
        assert.isTrue(records.every(({ state }) => state === "COMPLETED"))
      }).pipe(withHandlers(Layer.merge(
        Work.toLayer(({ n }) => Effect.orDie(Effect.as(More.send({ n: n - 1 }), n))),
        More.toLayer(({ n }) => n > 0 ? Effect.orDie(Effect.asVoid(Work.send({ n: n - 1 }))) : Effect.void)
      )))
    })

    it.effect("drain with due goes from due time to due time, snoozes and tasks of handlers included", () => {
      const { More, Work } = define("due")
      let snoozed = false
      return Effect.gen(function*() {
        yield* Work.send({ n: 1 }, { delay: "5 hours" })
        yield* Work.send({ n: 2 }, { delay: "1 hour" })
        const before = yield* Clock.currentTimeMillis
        const records = yield* TestWorker.drain({ due: true })
        assert.deepStrictEqual(records.map(({ name, payload, state }) => [name, JSON.parse(payload).n, state]), [
          [Work._tag, 2, "COMPLETED"],
          [More._tag, 2, "PENDING"],
          [More._tag, 2, "COMPLETED"],
          [Work._tag, 1, "COMPLETED"],
          [More._tag, 1, "COMPLETED"]
        ])
        const passed = (yield* Clock.currentTimeMillis) - before
        assert.isAtLeast(passed, 8 * 3_600_000)
        assert.isBelow(passed, 8 * 3_600_000 + 100)
      }).pipe(withHandlers(Layer.merge(
        Work.toLayer(({ n }) => Effect.orDie(Effect.as(More.send({ n }, { delay: "3 hours" }), n))),
        More.toLayer(Effect.fn(function*() {
          if (snoozed) return
          snoozed = true
          return yield* Task.snooze("10 minutes")
        }))
      )))
    })

    it.effect("drain with due waits for the rate limit of a queue, and ends what expires", () => {
      const { More, Work } = define("limits")
      return Effect.gen(function*() {
        const broker = yield* Broker
        yield* broker.configureQueue(Work.queue, { limits: { rate: { limit: 1, per: 60_000 } } })
        yield* broker.configureQueue(More.queue, { paused: true })
        yield* Work.sendMany([{ n: 1 }, { n: 2 }, { n: 3 }])
        const late = yield* More.send({ n: 1 }, { goodFor: "1 hour" })
        assert.lengthOf(yield* TestWorker.drain(), 1)
        const before = yield* Clock.currentTimeMillis
        assert.lengthOf(yield* TestWorker.drain({ due: true }), 2)
        assert.isAtLeast((yield* Clock.currentTimeMillis) - before, 3_600_000)
        assert.strictEqual((yield* Effect.flip(late.await))._tag, "TaskExpired")
      }).pipe(withHandlers(Layer.merge(
        Work.toLayer(({ n }) => Effect.succeed(n)),
        More.toLayer(() => Effect.void)
      )))
    })

    it.effect("drain stops at its limit, and says which tasks send each other for ever", () => {
      const { More, Work } = define("for ever")
      return Effect.gen(function*() {
        yield* Work.send({ n: 1 })
        const error = yield* Effect.flip(TestWorker.drain({ limit: 20 }))
        if (error._tag !== "DrainLimitReached") return assert.fail(error.message)
        assert.strictEqual(error.limit, 20)
        assert.include(error.message, "20 tasks were run")
        assert.include(error.message, More._tag)
        // The one that was too many waits as before.
        const record = yield* next
        assert.strictEqual(record.attempts, 1)
        assert.strictEqual(record.losses, 0)
      }).pipe(withHandlers(Layer.merge(
        Work.toLayer(({ n }) => Effect.orDie(Effect.as(More.send({ n }), n))),
        More.toLayer(({ n }) => Effect.orDie(Effect.asVoid(Work.send({ n }))))
      )))
    })

    it.effect("drain runs as many as its limit says, if there are no more", () => {
      const { Work } = define("limit")
      return Effect.gen(function*() {
        yield* Work.sendMany([{ n: 1 }, { n: 2 }, { n: 3 }])
        assert.lengthOf(yield* TestWorker.drain({ limit: 3 }), 3)
      }).pipe(withHandlers(Work.toLayer(({ n }) => Effect.succeed(n))))
    })
  })
}

layer(postgres)("draining over a database", (it) => {
  it.effect("drain moves the clock of the database together with TestClock", () => {
    const { Work } = define("clocks")
    return Effect.gen(function*() {
      yield* Work.send({ n: 1 }, { delay: "2 hours" })
      yield* TestWorker.drain({ due: true })
      assert.strictEqual(yield* DatabaseClock.now, yield* Clock.currentTimeMillis)
    }).pipe(withHandlers(Work.toLayer(({ n }) => Effect.succeed(n))))
  })
})

it.live("dies when there is no clock that it could move", () => {
  const { Work } = define("live")
  return Effect.gen(function*() {
    yield* Work.send({ n: 1 }, { delay: "1 hour" })
    const exit = yield* Effect.exit(TestWorker.drain({ due: true }))
    assert.include(String(exit), "there is no TestClock")
  }).pipe(
    withHandlers(Work.toLayer(({ n }) => Effect.succeed(n))),
    Effect.provide(MemoryBroker.layer)
  )
})
