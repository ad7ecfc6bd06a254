import { assert, it, layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker, type TaskRecord } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import * as DatabaseClock from "../../src/testing/DatabaseClock.ts"
import * as Worker from "../../src/Worker.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { record, start } from "../support/worker.ts"
import { postgres } from "./brokers.ts"

class Down extends Schema.TaggedError<Down>()("Down", {}) {}

class Work extends Task.make("Work", {
  payload: { failures: Schema.Int, sleep: Schema.Number },
  success: Schema.Number,
  error: Down,
  retry: { times: 3, schedule: Schedule.spaced("5 minutes") }
}) {}

/** Fails as often as its payload says, then sleeps, then succeeds with the attempt. */
const handlers = Work.toLayer(Effect.fn(function*({ failures, sleep }) {
  const { attempt } = yield* Task.CurrentTask
  if (attempt <= failures) return yield* new Down()
  yield* Effect.sleep(Duration.minutes(sleep))
  return attempt
}))

const at = (task: { readonly id: string }): Effect.Effect<TaskRecord, never, Broker> => record(task.id)
const states = (...tasks: ReadonlyArray<{ readonly id: string }>) =>
  Effect.map(Effect.forEach(tasks, at), (records) => records.map(({ state }) => state))

const workers = {
  "a worker with the defaults": Worker.layer(),
  "a worker with a long heartbeat interval": Worker.layer({ heartbeatInterval: "30 days" })
}

for (const [name, worker] of Object.entries(workers)) {
  layer(Layer.provideMerge(Layer.provide(handlers, worker), postgres))(`time over a database, and ${name}`, (it) => {
    it.effect("a delayed task runs when its time has come, and not before", () =>
      Effect.gen(function*() {
        const handle = yield* Work.send({ failures: 0, sleep: 0 }, { delay: "5 minutes" })
        yield* DatabaseClock.advance("4 minutes")
        assert.deepStrictEqual(yield* states(handle), ["PENDING"])
        yield* DatabaseClock.advance("1 minute")
        assert.deepStrictEqual(yield* states(handle), ["COMPLETED"])
        assert.strictEqual(yield* handle.await, 1)
      }))

    it.effect("a task for a point in time runs then: the clocks tell the same time", () =>
      Effect.gen(function*() {
        const handle = yield* Work.send({ failures: 0, sleep: 0 }, {
          runAt: DateTime.add(yield* DateTime.now, { minutes: 3 })
        })
        yield* DatabaseClock.advance("2 minutes")
        assert.deepStrictEqual(yield* states(handle), ["PENDING"])
        yield* DatabaseClock.advance("1 minute")
        assert.deepStrictEqual(yield* states(handle), ["COMPLETED"])
        assert.strictEqual(yield* DatabaseClock.now, yield* Clock.currentTimeMillis)
      }))

    it.effect("an attempt is repeated after its delay", () =>
      Effect.gen(function*() {
        const task = yield* Work.send({ failures: 2, sleep: 0 })
        yield* DatabaseClock.advance("0 millis")
        assert.strictEqual((yield* at(task)).attempts, 1)
        yield* DatabaseClock.advance("4 minutes")
        assert.strictEqual((yield* at(task)).attempts, 1)
        yield* DatabaseClock.advance("1 minute")
        assert.strictEqual((yield* at(task)).attempts, 2)
        yield* DatabaseClock.advance("5 minutes")
        const { history, state } = yield* at(task)
        assert.strictEqual(state, "COMPLETED")
        assert.deepStrictEqual(history.map(({ outcome }) => outcome), ["Error", "Error", "Completed"])
      }))

    it.effect("a task expires", () =>
      Effect.gen(function*() {
        const broker = yield* Broker
        yield* broker.configureQueue(Work.queue, { paused: true })
        const task = yield* Work.send({ failures: 0, sleep: 0 }, { goodFor: "5 minutes" })
        yield* DatabaseClock.advance("4 minutes")
        assert.deepStrictEqual(yield* states(task), ["PENDING"])
        yield* DatabaseClock.advance("1 minute")
        assert.deepStrictEqual(yield* states(task), ["EXPIRED"])
        yield* broker.configureQueue(Work.queue, { paused: false })
      }))

    it.effect("a handler that sleeps runs on, and keeps its hold", () =>
      Effect.gen(function*() {
        const task = yield* Work.send({ failures: 0, sleep: 10 })
        yield* DatabaseClock.advance("9 minutes")
        assert.deepStrictEqual(yield* states(task), ["CLAIMED"])
        yield* DatabaseClock.advance("1 minute")
        const { history, losses, state } = yield* at(task)
        assert.strictEqual(state, "COMPLETED")
        assert.strictEqual(losses, 0)
        assert.deepStrictEqual(history.map(({ outcome }) => outcome), ["Completed"])
      }))
  })
}

layer(postgres)("time over a database", (it) => {
  it.effect("a lease passes, and the task of a worker that was lost runs elsewhere", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      const task = yield* Work.send({ failures: 0, sleep: 0 })
      const lost = yield* Task.makeId
      yield* broker.register({ id: lost, lease: 30_000, host: "elsewhere", pid: 1, handles: [] })
      const { tasks } = yield* broker.claim(lost, [
        { queue: Work.queue, handles: [{ name: Work._tag, version: 1 }], slots: 1, ahead: 0 }
      ])
      assert.lengthOf(tasks, 1)
      yield* start(handlers, {})
      yield* DatabaseClock.advance("29 seconds")
      assert.deepStrictEqual(yield* states(task), ["CLAIMED"])
      // The lease is over after 30 seconds, and noticed within an interval; time passes in steps of 5 seconds.
      yield* DatabaseClock.advance("16 seconds")
      const { history, losses, state } = yield* at(task)
      assert.strictEqual(state, "COMPLETED")
      assert.strictEqual(losses, 1)
      assert.deepStrictEqual(history.map(({ outcome, worker }) => [outcome, worker === lost]), [
        ["Lost", true],
        ["Completed", false]
      ])
    }))

  it.effect("time that passes in steps lets what follows upon each other happen in its time", () =>
    Effect.gen(function*() {
      yield* start(handlers, { heartbeatInterval: "30 days" })
      const [once, stepwise] = [{ step: "1 hour" }, { step: "5 minutes" }] as const
      for (const [options, attempts] of [[once, 2], [stepwise, 3]] as const) {
        const task = yield* Work.send({ failures: 2, sleep: 0 })
        yield* DatabaseClock.advance("10 minutes", options)
        assert.strictEqual((yield* at(task)).attempts, attempts)
      }
    }))

  it.effect("does not come to rest while a statement waits for the test itself: it dies, and says which", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* sql`create table locked (n int)`
      const locked = yield* Deferred.make<void>()
      const waiting = yield* Effect.forkChild(Effect.andThen(Deferred.await(locked), sql`select n from locked`))
      yield* sql.withTransaction(Effect.gen(function*() {
        yield* sql`lock table locked in access exclusive mode`
        yield* Deferred.succeed(locked, undefined)
        const exit = yield* Effect.exit(DatabaseClock.advance("1 minute"))
        if (Exit.isSuccess(exit)) return assert.fail("it came to rest")
        assert.include(String(Cause.squash(exit.cause)), "under way: select n from locked")
      }))
      assert.deepStrictEqual(yield* Fiber.join(waiting), [])
    }))

  it.effect("refuses to go back", () =>
    Effect.gen(function*() {
      const before = yield* DatabaseClock.now
      for (const duration of [-1, Number.POSITIVE_INFINITY]) {
        const exit = yield* Effect.exit(DatabaseClock.advance(duration))
        assert.include(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), "finite duration")
      }
      assert.strictEqual(yield* DatabaseClock.now, before)
    }))
})

it.effect("the time of a database goes on where the last test has left it", () =>
  Effect.gen(function*() {
    const clock = DatabaseClock.layer.pipe(Layer.provide(TestBroker.config))
    const first = yield* Effect.andThen(DatabaseClock.advance("10 days"), DatabaseClock.now).pipe(
      Effect.provide(clock, { local: true })
    )
    const second = yield* Effect.provide(DatabaseClock.now, clock, { local: true })
    assert.strictEqual(second, first)
    assert.strictEqual(yield* Clock.currentTimeMillis, second)
  }).pipe(Effect.provide(TestDatabase.layer)))

it.live("without TestClock, the database alone is moved", () =>
  Effect.gen(function*() {
    const before = yield* DatabaseClock.now
    yield* DatabaseClock.advance("1 hour")
    assert.isAtLeast((yield* DatabaseClock.now) - before, 3_600_000)
    const { id } = yield* Work.send({ failures: 0, sleep: 0 })
    assert.strictEqual((yield* at({ id })).sentAt, yield* DatabaseClock.now)
  }).pipe(Effect.provide(postgres)))
