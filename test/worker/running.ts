/** What a worker runs, when, and how many at once. */
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import { type It, quick, record, sendRaw, start } from "../support/worker.ts"
import { Echo, Held, HeldElsewhere, Person } from "./tasks.ts"

export const running = (it: It) => {
  it.effect("runs a task and gives its result to who awaits it, before and after it ended", () =>
    Effect.gen(function*() {
      yield* start(Echo.toLayer(({ text }) => Effect.succeed(text.toUpperCase())))
      const handle = yield* Echo.send({ text: "hello" })
      assert.strictEqual(yield* handle.await, "HELLO")
      assert.strictEqual(yield* Echo.await(handle.id), "HELLO")
    }))

  it.effect("records a defect and goes on", () =>
    Effect.gen(function*() {
      yield* start(Echo.toLayer(({ text }) =>
        text === "boom" ? Effect.die(new Error("the handler is broken")) : Effect.succeed(text)
      ))
      const broken = yield* Effect.flip(Effect.flatMap(Echo.send({ text: "boom" }), (handle) =>
        handle.await))
      assert.instanceOf(broken, Task.TaskDefect)
      assert.include(broken.message, "the handler is broken")
      assert.strictEqual(yield* Effect.flatMap(Echo.send({ text: "fine" }), (handle) => handle.await), "fine")
    }))

  it.effect("ends a task whose payload does not decode, without calling the handler", () =>
    Effect.gen(function*() {
      const calls: Array<string> = []
      yield* start(Echo.toLayer(({ text }) => Effect.sync(() => calls.push(text)).pipe(Effect.as(text))))
      const good = yield* Echo.send({ text: "good" })
      const id = yield* sendRaw({ name: "Echo", payload: `{"text":1}` })
      const error = yield* Effect.flip(Echo.await(id))
      assert.instanceOf(error, Task.DecodeError)
      assert.strictEqual(yield* good.await, "good")
      assert.deepStrictEqual(calls, ["good"])
    }))

  it.effect("leaves alone what it has no handler for", () =>
    Effect.gen(function*() {
      const unknown = yield* Held.send({ n: 1 })
      yield* start(Echo.toLayer(({ text }) => Effect.succeed(text)))
      assert.strictEqual(yield* Effect.flatMap(Echo.send({ text: "known" }), (handle) => handle.await), "known")
      assert.strictEqual((yield* record(unknown.id)).state, "PENDING")
      yield* start(Held.toLayer(({ n }) => Effect.succeed(n + 1)))
      assert.strictEqual(yield* unknown.await, 2)
    }))

  it.effect("never runs more of a queue at once than its concurrency, and starts the most urgent first", () =>
    Effect.gen(function*() {
      const order: Array<number> = []
      let running = 0
      let most = 0
      const handles = []
      for (const [n, priority] of [[0, 100], [1, 50], [2, 1], [3, 100], [4, 50], [5, 1]] as const) {
        handles.push(yield* Held.send({ n }, { priority }))
      }
      yield* start(
        Held.toLayer(({ n }) =>
          Effect.gen(function*() {
            order.push(n)
            most = Math.max(most, ++running)
            yield* Effect.yieldNow
            running--
            return n
          })
        ),
        { ...quick, queues: { held: { concurrency: 2 } } }
      )
      yield* Effect.forEach(handles, (handle) => handle.await)
      assert.strictEqual(most, 2)
      assert.deepStrictEqual(order, [2, 5, 1, 4, 0, 3])
    }))

  it.effect("starts a delayed task when it is due, not before and not much later", () =>
    Effect.gen(function*() {
      let startedAt = 0
      yield* start(
        Echo.toLayer(({ text }) => Effect.sync(() => (startedAt = performance.now())).pipe(Effect.as(text)))
      )
      const sentAt = performance.now()
      const handle = yield* Echo.send({ text: "later" }, { delay: "150 millis" })
      yield* handle.await
      assert.isAtLeast(startedAt - sentAt, 149)
      assert.isBelow(startedAt - sentAt, 400)
    }))

  it.effect("an attempt whose handler interrupts itself has failed, like one that dies", () =>
    Effect.gen(function*() {
      yield* start(Held.toLayer(() => Effect.interrupt))
      const error = yield* Effect.flip(Effect.flatMap(Held.send({ n: 8 }), (handle) => handle.await))
      assert.instanceOf(error, Task.TaskDefect)
      assert.include(error.message, "interrupted itself")
    }))

  it.effect("refuses a second handler for the same name", () =>
    Effect.gen(function*() {
      const one = Echo.toLayer(({ text }) => Effect.succeed(text))
      const other = Echo.toLayer(({ text }) => Effect.succeed(text))
      const exit = yield* Effect.exit(start(Layer.merge(one, other)))
      assert.isTrue(Exit.isFailure(exit) && Cause.pretty(exit.cause).includes("two handlers for the task Echo"))
    }))

  it.effect("sends what a stream brings, and what an iterable holds", () =>
    Effect.gen(function*() {
      let ran = 0
      const all = yield* Deferred.make<void>()
      yield* start(Held.toLayer(({ n }) =>
        Effect.sync(() => ++ran).pipe(
          Effect.tap((count) => count === 2500 ? Deferred.succeed(all, undefined) : Effect.void),
          Effect.as(n)
        )
      ))
      assert.strictEqual(yield* Held.sendMany(Array.from({ length: 2500 }, (_, n) => ({ n }))), 2500)
      yield* Deferred.await(all)
      assert.strictEqual(yield* Held.sendMany([]), 0)
    }))

  it.effect("leaves tasks of a newer version alone, and brings older ones up to date", () =>
    Effect.gen(function*() {
      const newer = yield* sendRaw({ name: "Person", payload: `{"names":["Ada"]}`, version: 4 })
      const first = yield* sendRaw({ name: "Person", payload: `{"name":"Ada Lovelace"}`, version: 1 })
      const second = yield* sendRaw({ name: "Person", payload: `{"first":"Ada","last":"King"}`, version: 2 })
      const broken = yield* sendRaw({ name: "Person", payload: `{"nome":"Ada"}`, version: 1 })
      yield* start(Person.toLayer(({ names }) => Effect.succeed(names.join("+"))))
      assert.strictEqual(yield* Person.await(first), "Ada+Lovelace")
      assert.strictEqual(yield* Person.await(second), "Ada+King")
      const error = yield* Effect.flip(Person.await(broken))
      assert.instanceOf(error, Task.DecodeError)
      assert.include(error.message, "upgrade from version 1 failed")
      const current = yield* Person.send({ names: ["Grace", "Hopper"] })
      assert.strictEqual(yield* current.await, "Grace+Hopper")
      assert.strictEqual((yield* record(current.id)).version, 3)
      assert.strictEqual((yield* record(newer)).state, "PENDING")
    }))

  it.effect("never runs what has not started in time", () =>
    Effect.gen(function*() {
      const go = yield* Deferred.make<void>()
      const ran: Array<number> = []
      yield* start(
        Held.toLayer(({ n }) => Effect.as(Effect.andThen(Effect.sync(() => ran.push(n)), Deferred.await(go)), n)),
        { ...quick, concurrency: 1 }
      )
      const first = yield* Held.send({ n: 1 })
      const late = yield* Held.send({ n: 2 }, { goodFor: "50 millis" })
      const patient = yield* Held.send({ n: 3 }, { goodFor: "1 minute" })
      assert.instanceOf(yield* Effect.flip(late.await), Task.TaskExpired)
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* first.await, 1)
      assert.strictEqual(yield* patient.await, 3)
      assert.deepStrictEqual(ran, [1, 3])
      const { attempts, state } = yield* record(late.id)
      assert.deepStrictEqual({ attempts, state }, { attempts: 0, state: "EXPIRED" })
    }))

  for (const queues of [undefined, { held: {} }]) {
    it.effect(`is known for what it handles, with ${queues === undefined ? "all queues" : "queues of its own"}`, () =>
      Effect.gen(function*() {
        const broker = yield* Broker
        const started = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        yield* broker.configureQueue("held", { limits: { concurrency: 1 } })
        const waits = yield* Held.send({ n: 1 }, { priority: 2 })
        assert.deepStrictEqual(yield* broker.whyNotRunning(waits.id), { _tag: "NoWorker", queue: "held", name: "Held" })
        const runs = yield* Held.send({ n: 2 }, { priority: 1 })
        yield* start(
          Held.toLayer(({ n }) =>
            Effect.as(Effect.andThen(Deferred.succeed(started, undefined), Deferred.await(go)), n)
          ),
          { ...quick, ...(queues === undefined ? {} : { queues }) }
        )
        yield* Deferred.await(started)
        // It may claim before it has made known what came after its start.
        const why = yield* Effect.repeat(Effect.andThen(Effect.yieldNow, broker.whyNotRunning(waits.id)), {
          until: ({ _tag }) => _tag !== "NoWorker"
        })
        assert.deepStrictEqual(why, {
          _tag: "Concurrency",
          limit: 1,
          concurrencyKey: undefined,
          holders: [runs.id]
        })
        yield* Deferred.succeed(go, undefined)
        assert.strictEqual(yield* waits.await, 1)
        yield* broker.configureQueue("held", { limits: {} })
      }))
  }

  it.effect("starts nothing of a paused queue until it is resumed, and lets go on what runs", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      const started = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      yield* start(Layer.merge(
        Held.toLayer(({ n }) =>
          Deferred.succeed(started, undefined).pipe(Effect.andThen(Deferred.await(go)), Effect.as(n))
        ),
        Echo.toLayer(({ text }) => Effect.succeed(text))
      ))
      const running = yield* Held.send({ n: 1 })
      yield* Deferred.await(started)
      yield* broker.configureQueue("held", { paused: true })
      const waiting = yield* Held.send({ n: 2 })
      yield* Effect.flatMap(Echo.send({ text: "elsewhere" }), (handle) => handle.await)
      assert.strictEqual((yield* record(waiting.id)).state, "PENDING")
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* running.await, 1)
      assert.strictEqual((yield* record(waiting.id)).state, "PENDING")
      yield* broker.configureQueue("held", { paused: false })
      assert.strictEqual(yield* waiting.await, 2)
    }))

  it.effect("leaves room in a full queue to others, whatever waits for itself", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      yield* broker.configureQueue("held", { limits: { concurrency: 1 } })
      // There is always another one: each sends the next before it ends.
      let over = false
      yield* start(
        Held.toLayer(({ n }) =>
          Effect.gen(function*() {
            if (!over) yield* Effect.orDie(Held.send({ n: n + 1 }))
            return n
          }).pipe(Effect.provideService(Broker, broker))
        ),
        { ...quick, queues: { held: { concurrency: 1 } } }
      )
      yield* Effect.flatMap(Held.send({ n: 0 }), (handle) => handle.await)
      yield* start(HeldElsewhere.toLayer(() => Effect.void))
      const other = yield* HeldElsewhere.send({})
      yield* other.awaitFor("10 seconds")
      assert.strictEqual((yield* record(other.id)).state, "COMPLETED")
      over = true
      yield* broker.configureQueue("held", { limits: {} })
    }))

  it.effect("keeps the limits that it was given, whatever its own concurrency", () =>
    Effect.gen(function*() {
      let running = 0
      let most = 0
      const handles = yield* Effect.forEach(Array.from({ length: 30 }, (_, n) => n), (n) => Held.send({ n }))
      yield* start(
        Held.toLayer(({ n }) =>
          Effect.gen(function*() {
            most = Math.max(most, ++running)
            yield* Effect.yieldNow
            running--
            return n
          })
        ),
        { ...quick, queues: { held: { concurrency: 8, limits: { concurrency: 3 } } } }
      )
      yield* Effect.forEach(handles, (handle) => handle.await, { concurrency: "unbounded" })
      assert.strictEqual(most, 3)
      yield* Broker.use((broker) => broker.configureQueue("held", { limits: {} }))
    }))

  it.effect("starts what a rate holds back as soon as the rate allows it", () =>
    Effect.gen(function*() {
      yield* start(
        Held.toLayer(({ n }) => Effect.succeed(n)),
        { ...quick, queues: { held: { limits: { rate: { limit: 1, per: "100 millis", burst: 2 } } } } }
      )
      const began = performance.now()
      const handles = yield* Effect.forEach([1, 2, 3, 4, 5], (n) => Held.send({ n }))
      yield* Effect.forEach(handles, (handle) => handle.await, { concurrency: "unbounded" })
      assert.isAtLeast(performance.now() - began, 290)
      assert.isBelow(performance.now() - began, 2000)
      yield* Broker.use((broker) => broker.configureQueue("held", { limits: {} }))
    }))
}
