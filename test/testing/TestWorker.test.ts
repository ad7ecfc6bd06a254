import { assert, it, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import * as TestClock from "effect/testing/TestClock"
import { Broker, BrokerError, Unavailable } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import * as Task from "../../src/Task.ts"
import * as TestWorker from "../../src/testing/TestWorker.ts"
import { brokers, postgres } from "./brokers.ts"
import { define, next, summary, withHandlers } from "./handling.ts"

for (const [name, broker] of Object.entries(brokers)) {
  layer(broker)(`a test worker over ${name}`, (it) => {
    it.effect("runs nothing by itself, and one task when told to", () => {
      const { Work } = define("one")
      const ran: Array<number> = []
      return Effect.gen(function*() {
        assert.isTrue(Option.isNone(yield* TestWorker.runNext))
        const handle = yield* Work.send({ n: 1 })
        yield* Work.send({ n: 2 })
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual(ran, [])
        const record = yield* next
        assert.deepStrictEqual(ran, [1])
        assert.strictEqual(record.id, handle.id)
        assert.strictEqual(record.state, "COMPLETED")
        assert.deepStrictEqual(record.history.map(({ outcome }) => outcome), ["Completed"])
        assert.strictEqual(yield* handle.await, 10)
      }).pipe(withHandlers(Work.toLayer(({ n }) =>
        Effect.sync(() => {
          ran.push(n)
          return n * 10
        })
      )))
    })

    it.effect("runs the most urgent first, of one queue and of several", () => {
      const { More, Work } = define("urgent")
      const handler = () => Effect.succeed(0)
      return Effect.gen(function*() {
        const ids = yield* Effect.forEach([
          Work.send({ n: 1 }, { priority: 50 }),
          More.send({ n: 2 }, { priority: 40 }),
          Work.send({ n: 3 }, { priority: 2 }),
          More.send({ n: 4 }, { priority: 3 }),
          More.send({ n: 5 }, { priority: 50 })
        ], Effect.map(({ id }) => id))
        const records = yield* TestWorker.drain()
        assert.deepStrictEqual(records.map(({ id }) => ids.indexOf(id) + 1), [3, 4, 2, 1, 5])
        // What was handed back for the comparison has lost nothing.
        assert.isTrue(
          records.every(({ attempts, history, losses }) => attempts === 1 && losses === 0 && history.length === 1)
        )
      }).pipe(withHandlers(Layer.merge(Work.toLayer(handler), More.toLayer(() => Effect.void))))
    })

    it.effect("leaves alone what it has no handler for, what is paused, and what is not due", () => {
      const { More, Work } = define("alone")
      return Effect.gen(function*() {
        const broker = yield* Broker
        yield* More.send({ n: 1 })
        yield* Work.send({ n: 1 }, { delay: "1 hour" })
        assert.deepStrictEqual(yield* TestWorker.drain(), [])
        const { id } = yield* Work.send({ n: 2 })
        yield* broker.configureQueue(Work.queue, { paused: true })
        assert.deepStrictEqual(yield* TestWorker.drain(), [])
        yield* broker.configureQueue(Work.queue, { paused: false })
        assert.deepStrictEqual(summary(yield* TestWorker.drain()), [[id, "COMPLETED"]])
      }).pipe(withHandlers(Work.toLayer(({ n }) => Effect.succeed(n))))
    })

    it.effect("gives the record of an attempt that failed; a retry waits for its time", () => {
      class Down extends Schema.TaggedError<Down>()("Down", { attempt: Schema.Int }) {}
      class Flaky extends Task.make("flaky", {
        error: Down,
        queue: "flaky",
        retry: { times: 2, schedule: Schedule.spaced("5 minutes") }
      }) {}
      return Effect.gen(function*() {
        const { id } = yield* Flaky.send()
        const first = yield* next
        assert.strictEqual(first.state, "PENDING")
        assert.strictEqual(first.attempts, 1)
        assert.isTrue(Option.isNone(yield* TestWorker.runNext))
        const records = yield* TestWorker.drain({ due: true })
        assert.deepStrictEqual(summary(records), [[id, "PENDING"], [id, "FAILED"]])
        const { history } = records.at(-1)!
        assert.deepStrictEqual(history.map(({ error }) => error), [
          { _tag: "Down", attempt: 1 },
          { _tag: "Down", attempt: 2 },
          { _tag: "Down", attempt: 3 }
        ])
        const [one, two, three] = history.map(({ endedAt }) => endedAt)
        for (const waited of [two! - one!, three! - two!]) {
          assert.isAtLeast(waited, 300_000)
          assert.isBelow(waited, 300_020)
        }
      }).pipe(withHandlers(Flaky.toLayer(Effect.fn(function*() {
        return yield* new Down({ attempt: (yield* Task.CurrentTask).attempt })
      }))))
    })

    it.effect("a handler that sleeps goes on with the clock, until its timeout", () => {
      class Slow extends Task.make("slow", { payload: { minutes: Schema.Int }, queue: "slow", timeout: "5 minutes" }) {}
      return Effect.gen(function*() {
        const started = yield* Queue.unbounded<void>()
        /** The record of a run during which as many minutes pass as it wants to sleep. */
        const slept = (minutes: number) =>
          Effect.gen(function*() {
            yield* Slow.send({ minutes })
            const run = yield* Effect.forkChild(next)
            yield* Queue.take(started)
            yield* TestClock.adjust(`${minutes} minutes`)
            return yield* Fiber.join(run)
          })
        yield* Effect.gen(function*() {
          assert.strictEqual((yield* slept(2)).state, "COMPLETED")
          const late = yield* slept(6)
          assert.strictEqual(late.state, "FAILED")
          assert.deepStrictEqual(late.history.map(({ outcome }) => outcome), ["Timeout"])
        }).pipe(
          withHandlers(
            Slow.toLayer(({ minutes }) =>
              Effect.andThen(Queue.offer(started, undefined), Effect.sleep(`${minutes} minutes`))
            )
          )
        )
      })
    })

    it.effect("a handler that dies does not fail the run: the record says how it has ended", () => {
      const { Work } = define("dies")
      return Effect.gen(function*() {
        yield* Work.send({ n: 1 })
        const record = yield* next
        assert.strictEqual(record.state, "FAILED")
        assert.strictEqual(record.history[0]!.outcome, "Defect")
      }).pipe(withHandlers(Work.toLayer(() => Effect.die("boom"))))
    })

    it.effect("a cancelled task stops its handler, and says so in its record", () => {
      const { Work } = define("cancel")
      return Effect.gen(function*() {
        const broker = yield* Broker
        const started = yield* Deferred.make<void>()
        yield* Effect.gen(function*() {
          const { id } = yield* Work.send({ n: 1 })
          const run = yield* Effect.forkChild(next)
          yield* Deferred.await(started)
          yield* broker.cancel({ ids: [id] })
          const record = yield* Fiber.join(run)
          assert.deepStrictEqual(summary([record]), [[id, "CANCELLED"]])
        }).pipe(withHandlers(Work.toLayer(() => Effect.andThen(Deferred.succeed(started, undefined), Effect.never))))
      })
    })

    it.effect("a batch handler gets batches of one", () => {
      const { Work } = define("batches")
      const sizes: Array<number> = []
      return Effect.gen(function*() {
        yield* Work.sendMany([{ n: 1 }, { n: 2 }])
        assert.lengthOf(yield* TestWorker.drain(), 2)
        assert.deepStrictEqual(sizes, [1, 1])
      }).pipe(withHandlers(Work.toBatchLayer((batch) => {
        sizes.push(batch.length)
        return Effect.forEach(batch, ({ payload }) => Effect.exit(Effect.succeed(payload.n)))
      }, { size: 10 })))
    })

    it.effect("makes known what it handles when the handlers are there", () => {
      const { More, Work } = define("known")
      return Effect.gen(function*() {
        const broker = yield* Broker
        const { id } = yield* Work.send({ n: 1 })
        const { id: unknown } = yield* More.send({ n: 1 })
        assert.strictEqual((yield* broker.whyNotRunning(id))._tag, "Nothing")
        assert.strictEqual((yield* broker.whyNotRunning(unknown))._tag, "NoWorker")
      }).pipe(withHandlers(Work.toLayer(({ n }) => Effect.succeed(n))))
    })

    it.effect("hands back what still runs when it is closed", () => {
      const { Work } = define("closed")
      return Effect.gen(function*() {
        const started = yield* Deferred.make<void>()
        const { id } = yield* Work.send({ n: 1 })
        yield* Effect.andThen(Effect.forkScoped(TestWorker.runNext), Deferred.await(started)).pipe(
          withHandlers(Work.toLayer(() => Effect.andThen(Deferred.succeed(started, undefined), Effect.never)))
        )
        const record = yield* Effect.flatMap(Broker.use((broker) => broker.find(id)), Effect.fromOption)
        assert.strictEqual(record.state, "PENDING")
        assert.deepStrictEqual(record.history.map(({ outcome }) => outcome), ["Shutdown"])
      })
    })
  })
}

layer(postgres)("a test worker over a database", (it) => {
  it.effect("runs a handler and its completion in one transaction", () => {
    class Insert extends Task.make("insert", { payload: { n: Schema.Int, dies: Schema.Boolean }, queue: "insert" }) {}
    return Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* sql`create table inserted (n int)`
      yield* Insert.send({ n: 1, dies: false })
      yield* Insert.send({ n: 2, dies: true })
      const records = yield* TestWorker.drain()
      assert.deepStrictEqual(records.map(({ state }) => state), ["COMPLETED", "FAILED"])
      assert.deepStrictEqual(yield* sql`select n from inserted`, [{ n: 1 }])
    }).pipe(
      Effect.provide(
        Layer.provideMerge(
          Insert.toLayer(
            Effect.fn(function*({ dies, n }) {
              const sql = yield* SqlClient
              yield* sql`insert into inserted values (${n})`
              if (dies) return yield* Effect.die("boom")
            }, Effect.orDie),
            { transaction: true }
          ),
          TestWorker.layer
        ),
        { local: true }
      )
    )
  })
})

/** A broker whose `finish` or `claim` fails. */
const failing = (part: "finish" | "claim") =>
  Layer.effect(
    Broker,
    Effect.map(
      Broker,
      (broker) =>
        Broker.of({
          ...broker,
          [part]: () => Effect.fail(new BrokerError({ reason: new Unavailable({ message: "gone" }) }))
        })
    )
  ).pipe(Layer.provide(MemoryBroker.layer))

for (const part of ["claim", "finish"] as const) {
  it.effect(`fails when the broker cannot ${part}`, () => {
    const { Work } = define(part)
    return Effect.gen(function*() {
      yield* Work.send({ n: 1 })
      const error = yield* Effect.flip(TestWorker.runNext)
      assert.strictEqual(error.reason._tag, "Unavailable")
    }).pipe(
      withHandlers(Work.toLayer(({ n }) => Effect.succeed(n))),
      Effect.provide(failing(part))
    )
  })
}
