/** What a broker does with each of these is up to its contract: here, that the right thing is asked of it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, Schema } from "effect"
import { MemoryBroker, Monitor, Task } from "effect-horsies"
import * as TestWorker from "effect-horsies/testing/TestWorker"

class Import extends Task.make("Import", {
  payload: { file: Schema.String },
  error: Schema.String,
  queue: "imports",
  tags: ({ file }) => ({ file })
}) {}

const ImportLive = Import.toLayer(({ file }) => file === "bad" ? Effect.fail("unreadable") : Effect.void)

const Test = ImportLive.pipe(Layer.provideMerge(TestWorker.layer), Layer.provideMerge(MemoryBroker.layer))

const idsOf = (tasks: ReadonlyArray<{ readonly id: string }>) => tasks.map(({ id }) => id)

describe("Monitor", () => {
  it.effect("finds a task by its id, and tasks by a filter, a page at a time", () =>
    Effect.gen(function*() {
      const { id } = yield* Import.send({ file: "a" })
      yield* Import.send({ file: "b" })
      assert.strictEqual(Option.getOrThrow(yield* Monitor.task(id)).payload, "{\"file\":\"a\"}")
      assert.isTrue(Option.isNone(yield* Monitor.task("00000000-0000-7000-8000-000000000000")))
      assert.deepStrictEqual(idsOf(yield* Monitor.tasks({ tags: { file: "a" } })), [id])
      const [last] = yield* Monitor.tasks({}, { limit: 1 })
      const rest = yield* Monitor.tasks({}, { before: last?.id })
      assert.deepStrictEqual([last?.id, ...idsOf(rest)], idsOf(yield* Monitor.tasks()))
      assert.strictEqual(rest.length, 1)
    }).pipe(Effect.provide(Test)))

  it.effect("lists dead letters, and sends them again", () =>
    Effect.gen(function*() {
      const { id } = yield* Import.send({ file: "bad" })
      yield* Import.send({ file: "good" })
      yield* TestWorker.drain()
      assert.deepStrictEqual(idsOf(yield* Monitor.failed()), [id])
      assert.deepStrictEqual(yield* Monitor.failed({ tags: { file: "good" } }), [])

      const again = yield* Monitor.resend({ name: "Import" })
      assert.deepStrictEqual(again.map(({ origin }) => origin), [id])
      const [dead] = yield* Monitor.failed()
      assert.strictEqual(dead?.successor, again[0]?.id)
    }).pipe(Effect.provide(Test)))

  it.effect("cancels by a filter", () =>
    Effect.gen(function*() {
      const { id } = yield* Import.send({ file: "a" })
      const { id: other } = yield* Import.send({ file: "b" })
      assert.deepStrictEqual(yield* Monitor.cancel({ tags: { file: "a" } }), { cancelled: [id], requested: [] })
      assert.deepStrictEqual(idsOf(yield* Monitor.tasks({}, { states: ["PENDING"] })), [other])
    }).pipe(Effect.provide(Test)))

  it.effect("pauses and resumes a queue, and says why its tasks do not run", () =>
    Effect.gen(function*() {
      const { id } = yield* Import.send({ file: "a" })
      yield* Monitor.pause("imports")
      assert.deepStrictEqual(yield* Monitor.whyNotRunning(id), { _tag: "Paused", queue: "imports" })
      assert.isTrue(Option.isNone(yield* TestWorker.runNext))
      yield* Monitor.resume("imports")
      assert.isTrue(Option.isSome(yield* TestWorker.runNext))
    }).pipe(Effect.provide(Test)))

  it.effect("sets the limits of a queue and lifts them, whether it is paused or not", () =>
    Effect.gen(function*() {
      yield* Monitor.pause("imports")
      yield* Monitor.limit("imports", {
        concurrency: 5,
        rate: { limit: 100, per: "1 minute", burst: 10 },
        perKey: { concurrency: 2, rate: { limit: 1, per: "1 second" } }
      })
      const { limits, paused } = yield* Monitor.queue("imports")
      assert.isTrue(paused)
      assert.strictEqual(limits.concurrency, 5)
      assert.deepStrictEqual(limits.rate, { limit: 100, per: 60_000, burst: 10 })
      assert.strictEqual(limits.perKey?.concurrency, 2)
      assert.strictEqual(limits.perKey?.rate?.per, 1000)

      yield* Monitor.limit("imports", {})
      const lifted = yield* Monitor.queue("imports")
      assert.deepStrictEqual([lifted.limits.concurrency, lifted.limits.rate, lifted.limits.perKey], [
        undefined,
        undefined,
        undefined
      ])
      assert.isTrue(lifted.paused)
    }).pipe(Effect.provide(MemoryBroker.layer)))

  it.effect("refuses a limit that is none, and changes nothing", () =>
    Effect.gen(function*() {
      const bad: ReadonlyArray<readonly [Parameters<typeof Monitor.limit>[1], string]> = [
        [{ concurrency: 0 }, "concurrency is 0"],
        [{ rate: { limit: 1.5, per: "1 minute" } }, "rate.limit is 1.5"],
        [{ rate: { limit: 1, per: "1 minute", burst: 0 } }, "rate.burst is 0"],
        [{ rate: { limit: 1, per: "Infinity" } }, "rate.per is out of range"],
        [{ perKey: { rate: { limit: 1, per: 0 } } }, "perKey.rate.per is out of range"],
        [{ perKey: { concurrency: Number.NaN } }, "perKey.concurrency is NaN"]
      ]
      for (const [limits, why] of bad) {
        const error = yield* Effect.flip(Monitor.limit("imports", limits))
        assert.strictEqual(error.reason._tag, "Refused")
        assert.include(error.message, why)
      }
      assert.deepStrictEqual((yield* Monitor.queue("imports")).limits, {})
    }).pipe(Effect.provide(MemoryBroker.layer)))
})
