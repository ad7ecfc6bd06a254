import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { Broker, BrokerError, type NewTask, Refused } from "../src/Broker.ts"
import * as MemoryBroker from "../src/MemoryBroker.ts"
import * as Task from "../src/Task.ts"
import * as Worker from "../src/Worker.ts"

/** A broker that keeps what it is sent. */
const recording = (sent: Array<ReadonlyArray<NewTask>>) =>
  Layer.mock(Broker)({ send: (tasks) => Effect.sync(() => void sent.push(tasks)) })

const Anything = Schema.Struct({
  text: Schema.String,
  flag: Schema.Boolean,
  list: Schema.Array(Schema.NullOr(Schema.String)),
  maybe: Schema.optionalKey(Schema.String),
  big: Schema.BigInt,
  at: Schema.Date
})

class Keep extends Task.make("Keep", { payload: Anything, success: Anything }) {}
class Nothing extends Task.make("Nothing", { payload: Schema.Void }) {}
class Backoff extends Task.make("Backoff", {
  payload: {},
  success: Schema.Int,
  retry: { times: 3, schedule: Schedule.exponential("1 second") }
}) {}
class Forever extends Task.make("Forever", {
  payload: {},
  retry: { schedule: Schedule.spaced("1 minute").pipe(Schedule.upTo({ times: 2 })) }
}) {}

const Workers = Layer.mergeAll(
  Keep.toLayer((payload) => Effect.succeed(payload)),
  Nothing.toLayer(() => Effect.void),
  Backoff.toLayer(() =>
    Effect.flatMap(Task.CurrentTask, ({ attempt }) => attempt < 4 ? Effect.die("again") : Effect.succeed(attempt))
  ),
  Forever.toLayer(() => Effect.die("always"))
).pipe(Layer.provideMerge(Worker.layer()), Layer.provideMerge(MemoryBroker.layer))

describe("a task definition", () => {
  it.effect.prop(
    "carries any payload and result through their JSON unchanged",
    [Anything],
    ([payload]) =>
      Effect.gen(function*() {
        const handle = yield* Keep.send(payload)
        assert.deepStrictEqual(yield* handle.await, payload)
      }).pipe(Effect.provide(Workers))
  )

  it.effect("needs no payload, and no result", () =>
    Effect.gen(function*() {
      const handle = yield* Nothing.send(undefined)
      assert.isUndefined(yield* handle.await)
    }).pipe(Effect.provide(Workers)))

  it.effect("steps its retry schedule from the attempts that have ended: 1, 2 and 4 seconds", () =>
    Effect.gen(function*() {
      const handle = yield* Backoff.send({})
      const broker = yield* Broker
      const ended: Array<number> = []
      yield* TestClock.adjust(0)
      for (const second of [0, 1, 2, 3, 4, 5, 6, 7]) {
        const record = yield* Effect.flatMap(broker.find(handle.id), Effect.fromOption)
        ended.push(record.history.length)
        assert.strictEqual(second < 7 ? "PENDING" : "COMPLETED", record.state)
        yield* TestClock.adjust("1 second")
      }
      assert.deepStrictEqual(ended, [1, 2, 2, 3, 3, 3, 3, 4])
      assert.strictEqual(yield* handle.await, 4)
    }).pipe(Effect.provide(Layer.fresh(Workers))))

  it.effect("is not retried any more when its schedule is over", () =>
    Effect.gen(function*() {
      const handle = yield* Forever.send({})
      yield* TestClock.adjust("5 minutes")
      const error = yield* Effect.flip(handle.await)
      assert.instanceOf(error, Task.TaskDefect)
      const record = yield* Effect.flatMap(Broker.use((broker) => broker.find(handle.id)), Effect.fromOption)
      assert.strictEqual(record.attempts, 3)
    }).pipe(Effect.provide(Layer.fresh(Workers))))

  it.effect("sends a stream a thousand tasks at a time", () =>
    Effect.suspend(() => {
      const sent: Array<ReadonlyArray<NewTask>> = []
      return Effect.gen(function*() {
        const count = yield* Nothing.sendMany(Stream.range(1, 2500).pipe(Stream.map(() => undefined)), { priority: 7 })
        assert.strictEqual(count, 2500)
        assert.deepStrictEqual(sent.map((tasks) => tasks.length), [1000, 1000, 500])
        const tasks = sent.flat()
        assert.isTrue(tasks.every(({ priority }) => priority === 7))
        assert.deepStrictEqual(tasks.map(({ id }) => id), tasks.map(({ id }) => id).toSorted())
        assert.strictEqual(new Set(tasks.map(({ id }) => id)).size, 2500)
      }).pipe(Effect.provide(recording(sent)))
    }))

  it.effect("passes on a broker's error, and says whether trying again helps", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Nothing.send(undefined))
      assert.strictEqual(error._tag === "BrokerError" ? error.isRetryable : undefined, false)
      assert.strictEqual(error.message, "Refused: no")
    }).pipe(Effect.provide(
      Layer.mock(Broker)({
        send: () => Effect.fail(new BrokerError({ reason: new Refused({ message: "no" }) }))
      })
    )))

  it.effect("hands over due times and delays as they are given", () =>
    Effect.suspend(() => {
      const sent: Array<ReadonlyArray<NewTask>> = []
      return Effect.gen(function*() {
        yield* Nothing.send(undefined)
        yield* Nothing.send(undefined, { delay: Duration.minutes(5) })
        yield* Nothing.send(undefined, { runAt: "2030-01-01T00:00:00Z" })
        assert.deepStrictEqual(sent.flat().map(({ due }) => due), [
          { after: 0 },
          { after: 300_000 },
          { at: Date.UTC(2030, 0, 1) }
        ])
      }).pipe(Effect.provide(recording(sent)))
    }))

  it("refuses names that cannot be stored", () => {
    for (const name of ["", "a\u0000b", "x".repeat(256)]) {
      assert.throws(() => Task.make(name, { payload: {} }), /task name/)
      assert.throws(() => Task.make("Fine", { payload: {}, queue: name }), /queue/)
    }
  })
})
