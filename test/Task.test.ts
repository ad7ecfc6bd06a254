import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { Broker, BrokerError, type NewTask, Overloaded, TaskNotFound } from "../src/Broker.ts"
import * as MemoryBroker from "../src/MemoryBroker.ts"
import * as Task from "../src/Task.ts"
import * as Worker from "../src/Worker.ts"
import { refused, unavailable } from "./support/brokers.ts"

const stored = (tasks: ReadonlyArray<NewTask>) => tasks.map(({ id }) => ({ id, duplicate: false }))

/** A broker that can do nothing but this. */
const sending = (send: Broker["Service"]["send"]) => Layer.mock(Broker)({ send })

/** A broker that keeps what it is sent. */
const recording = (sent: Array<ReadonlyArray<NewTask>>) =>
  sending((tasks) => {
    sent.push(tasks)
    return Effect.succeed(stored(tasks))
  })

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

class Full extends Task.make("Full", {
  payload: { tenant: Schema.String, order: Schema.Int },
  queue: "full",
  priority: 5,
  version: 2,
  upgrade: { 1: (encoded) => encoded },
  timeout: "30 seconds",
  retention: "1 hour",
  onWorkerLost: "fail",
  concurrencyKey: ({ tenant }) => tenant,
  idempotencyKey: ({ order, tenant }) => `${tenant}/${order}`,
  idempotencyWindow: "10 minutes",
  tags: ({ order, tenant }) => ({ tenant, order: String(order) })
}) {}
class Small extends Task.make("Small", { payload: { text: Schema.String }, payloadLimit: 100 }) {}
class Large extends Task.make("Large", { payload: { text: Schema.String } }) {}

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
    }).pipe(Effect.provide(sending(() => Effect.fail(refused)))))

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

  it.effect("hands over everything else that definition and options say", () =>
    Effect.suspend(() => {
      const sent: Array<ReadonlyArray<NewTask>> = []
      return Effect.gen(function*() {
        const id = yield* Task.makeId
        yield* Full.send({ tenant: "acme", order: 7 })
        yield* Full.send({ tenant: "acme", order: 8 }, {
          id,
          goodFor: "2 minutes",
          timeout: "1 second",
          tags: { order: "eight", more: "" },
          concurrencyKey: "other",
          idempotencyKey: "8"
        })
        yield* Full.send({ tenant: "acme", order: 9 }, { goodUntil: "2030-01-01T00:00:00Z" })
        const [first, second, third] = sent.flat()
        assert.deepStrictEqual(first, {
          id: first!.id,
          name: "Full",
          queue: "full",
          payload: `{"tenant":"acme","order":7}`,
          version: 2,
          priority: 5,
          due: { after: 0 },
          goodUntil: undefined,
          timeout: 30_000,
          maxLosses: 1,
          concurrencyKey: "acme",
          tags: { tenant: "acme", order: "7" },
          retention: 3_600_000,
          idempotency: { key: "acme/7", window: 600_000 },
          repeated: false
        })
        assert.deepStrictEqual(second, {
          ...first!,
          id,
          payload: `{"tenant":"acme","order":8}`,
          goodUntil: { after: 120_000 },
          timeout: 1000,
          concurrencyKey: "other",
          tags: { tenant: "acme", order: "eight", more: "" },
          idempotency: { key: "8", window: 600_000 },
          repeated: true
        })
        assert.deepStrictEqual(third!.goodUntil, { at: Date.UTC(2030, 0, 1) })
        // A day, where the definition says nothing.
        yield* Nothing.send(undefined, { idempotencyKey: "once" })
        assert.deepStrictEqual(sent.flat().at(-1)!.idempotency, { key: "once", window: 86_400_000 })
      }).pipe(Effect.provide(recording(sent)))
    }))

  it.effect("refuses bad options before anything is sent, by their name", () =>
    Effect.gen(function*() {
      const bad: ReadonlyArray<readonly [string, Task.SendOptions]> = [
        ["priority", { priority: 0 }],
        ["priority", { priority: 101 }],
        ["priority", { priority: 1.5 }],
        ["delay", { delay: -1 }],
        ["delay", { delay: Number.POSITIVE_INFINITY }],
        ["delay or runAt", { delay: 1, runAt: 0 }],
        ["runAt", { runAt: "not a time" }],
        ["goodFor", { goodFor: 0 }],
        ["goodFor or goodUntil", { goodFor: 1, goodUntil: 0 }],
        ["goodUntil", { goodUntil: -1 }],
        ["timeout", { timeout: 0 }],
        ["timeout", { timeout: Number.POSITIVE_INFINITY }],
        ["id", { id: "" }],
        ["id", { id: "6fa459ea-ee8a-4ca4-894e-db77e160355e" }],
        ["concurrencyKey", { concurrencyKey: "" }],
        ["concurrencyKey", { concurrencyKey: "x".repeat(256) }],
        ["idempotencyKey", { idempotencyKey: "a\u0000b" }],
        ["idempotencyKey", { idempotencyKey: "a\ud800b" }],
        ["tags", { tags: { "": "x" } }],
        ["tags", { tags: { x: "y\udc00" } }]
      ]
      for (const [option, options] of bad) {
        const error = yield* Effect.flip(Nothing.send(undefined, options))
        assert.instanceOf(error, Task.PayloadError)
        assert.include(error.message, option)
        assert.match(error.message, /write|give/)
      }
      const error = yield* Effect.flip(Keep.send({ text: 1 } as never))
      assert.instanceOf(error, Task.PayloadError)
      // Astral characters are no lone surrogates: this one reaches the broker.
      const reached = yield* Effect.flip(Nothing.send(undefined, { concurrencyKey: "🐎", tags: { "🐎": "" } }))
      assert.strictEqual(reached._tag, "BrokerError")
    }).pipe(Effect.provide(sending(() => Effect.fail(refused)))))

  it.effect("refuses payloads that are too large, and says how large they are and may be", () =>
    Effect.suspend(() => {
      const sent: Array<ReadonlyArray<NewTask>> = []
      return Effect.gen(function*() {
        yield* Small.send({ text: "x".repeat(89) })
        // The braces, the name and the quotes are eleven more.
        yield* Small.send({ text: "€".repeat(29) })
        for (const text of ["x".repeat(90), "€".repeat(30), "🐎".repeat(23)]) {
          const error = yield* Effect.flip(Small.send({ text }))
          assert.instanceOf(error, Task.PayloadError)
          const bytes = new TextEncoder().encode(JSON.stringify({ text })).length
          assert.strictEqual(error.message, `the payload has ${bytes} bytes of JSON; at most 100 are allowed`)
        }
        const error = yield* Effect.flip(
          Keep.send({ text: "x".repeat(4_000_000), flag: true, list: [], big: 1n, at: new Date(0) })
        )
        assert.include(error.message, "at most 4000000 are allowed")
        assert.strictEqual(sent.length, 2)
      }).pipe(Effect.provide(recording(sent)))
    }))

  it.effect("sends once more, under the same id, when nobody can tell whether it was stored", () => {
    const tries: Array<NewTask> = []
    return Effect.gen(function*() {
      const handle = yield* Nothing.send(undefined)
      assert.deepStrictEqual(tries.map(({ id, repeated }) => [id, repeated]), [[handle.id, false], [handle.id, true]])
      // It was this send that had stored it.
      assert.isFalse(handle.duplicate)
    }).pipe(Effect.provide(sending(([task]) => {
      tries.push(task!)
      return tries.length === 1 ? Effect.fail(unavailable) : Effect.succeed([{ id: task!.id, duplicate: true }])
    })))
  })

  it.effect("does not repeat what would fail again, or what its sender can repeat", () => {
    const tries: Array<ReadonlyArray<NewTask>> = []
    const failures = [
      unavailable,
      unavailable,
      new BrokerError({ reason: new Overloaded({ message: "full" }) }),
      refused,
      unavailable
    ]
    return Effect.gen(function*() {
      assert.strictEqual(yield* Effect.flip(Nothing.send(undefined)), unavailable)
      assert.strictEqual(tries.splice(0).length, 2)
      yield* Effect.flip(Nothing.send(undefined))
      yield* Effect.flip(Nothing.send(undefined))
      assert.strictEqual(tries.splice(0).length, 2)
      yield* Effect.flip(Nothing.send(undefined, { id: yield* Task.makeId }))
      assert.strictEqual(tries.length, 1)
    }).pipe(Effect.provide(sending((tasks) => {
      tries.push(tasks)
      return Effect.fail(failures.shift()!)
    })))
  })

  it.effect("repeats a batch of many like a single send, and no other batch", () => {
    const tries: Array<ReadonlyArray<NewTask>> = []
    return Effect.gen(function*() {
      assert.strictEqual(yield* Nothing.sendMany(Array.from({ length: 1500 }, () => undefined)), 1500)
      assert.deepStrictEqual(tries.map((tasks) => [tasks.length, tasks.every((task) => task.repeated)]), [
        [1000, false],
        [1000, true],
        [500, false]
      ])
      assert.deepStrictEqual(tries[0]!.map(({ id }) => id), tries[1]!.map(({ id }) => id))
    }).pipe(Effect.provide(sending((tasks) => {
      tries.push(tasks)
      return tries.length === 1 ? Effect.fail(unavailable) : Effect.succeed(stored(tasks))
    })))
  })

  it.effect("sends large payloads in smaller batches", () =>
    Effect.suspend(() => {
      const sent: Array<ReadonlyArray<NewTask>> = []
      const texts = [1, 1_900_000, 1_900_000, 1_900_000, 3_999_000, 1, 1]
      return Effect.gen(function*() {
        const count = yield* Large.sendMany(texts.map((length) => ({ text: "x".repeat(length) })))
        assert.strictEqual(count, texts.length)
        assert.deepStrictEqual(sent.map((tasks) => tasks.length), [3, 1, 3])
      }).pipe(Effect.provide(recording(sent)))
    }))

  it.effect("tells apart what is not there from what need not be kept any longer", () =>
    Effect.gen(function*() {
      // Made at 1,700,000,000,000 ms since the epoch.
      const id = "018bcfe5-6800-7000-8000-000000000000"
      yield* TestClock.setTime(1_700_000_000_000 + 1000)
      assert.instanceOf(yield* Effect.flip(Nothing.await(id)), TaskNotFound)
      yield* TestClock.adjust(1)
      assert.instanceOf(yield* Effect.flip(Nothing.await(id)), Task.ResultNotKept)
      // The definition keeps its own for an hour.
      assert.instanceOf(yield* Effect.flip(Full.await(id)), TaskNotFound)
      yield* TestClock.adjust("1 hour")
      assert.instanceOf(yield* Effect.flip(Full.await(id)), Task.ResultNotKept)
      assert.instanceOf(yield* Effect.flip(Nothing.await("no id")), TaskNotFound)
    }).pipe(Effect.provide(
      Layer.mock(Broker)({
        retention: Effect.succeed(1000),
        outcome: (id) => Effect.fail(new TaskNotFound({ id }))
      })
    )))

  it.effect("shows the delays of its retries", () =>
    Effect.gen(function*() {
      const seconds = (delays: ReadonlyArray<Duration.Duration>) => delays.map(Duration.toSeconds)
      assert.deepStrictEqual(seconds(yield* Task.retryTimes(Backoff)), [1, 2, 4])
      assert.deepStrictEqual(seconds(yield* Task.retryTimes(Forever)), [60, 60])
      assert.deepStrictEqual(yield* Task.retryTimes(Nothing), [])
      const endless = Task.make("Endless", { retry: { schedule: Schedule.spaced("1 second") } })
      assert.strictEqual((yield* Task.retryTimes(endless)).length, 100)
      const usual = seconds(yield* Task.retryTimes(Task.make("Usual", { retry: { times: 20 } })))
      assert.strictEqual(usual.length, 20)
      // A second, doubled each time, with jitter, and an hour at most.
      assert.isTrue(usual.every((delay, i) => {
        const middle = Math.min(2 ** i, 3600)
        return delay >= middle * 0.8 && delay <= middle * 1.2
      }))
    }))

  it("refuses names that cannot be stored", () => {
    for (const name of ["", "a\u0000b", "x".repeat(256), "a\udfffb"]) {
      assert.throws(() => Task.make(name, { payload: {} }), /the name is/)
      assert.throws(() => Task.make("Fine", { payload: {}, queue: name }), /the queue is/)
    }
  })

  it("refuses options that make no sense", () => {
    const same = (encoded: Schema.Json) => encoded
    assert.throws(() => Task.make("Bad", { priority: 0 }), /priority is 0/)
    assert.throws(() => Task.make("Bad", { version: 0 }), /version is 0/)
    assert.throws(() => Task.make("Bad", { version: 1.5 }), /version is 1.5/)
    assert.throws(() => Task.make("Bad", { version: 2 }), /no step from version 1/)
    assert.throws(() => Task.make("Bad", { version: 4, upgrade: { 1: same, 3: same } }), /no step from version 2/)
    assert.throws(() => Task.make("Bad", { timeout: 0 }), /timeout is 0/)
    assert.throws(() => Task.make("Bad", { retention: "-1 second" as never }), /retention is -1 second/)
    assert.throws(() => Task.make("Bad", { idempotencyWindow: Duration.infinity }), /idempotencyWindow is/)
    assert.throws(() => Task.make("Bad", { payloadLimit: 0 }), /payloadLimit is 0/)
    assert.throws(() => Task.make("Bad", { payloadLimit: 4_000_001 }), /payloadLimit is 4000001/)
    assert.throws(() => Nothing.toBatchLayer(() => Effect.succeed([]), { size: 0 }), /size is 0/)
  })
})
