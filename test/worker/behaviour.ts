/** What a worker does, over any broker: run unchanged by the tests of each. In real time. */
import { assert, layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import { quick, start } from "../support/worker.ts"
import { Echo, Flaky, Held, Shaky } from "./tasks.ts"

/** Starts a worker in a scope of its own, and gives that scope. */
const startIn = Effect.fnUntraced(function*(
  handlers: Layer.Layer<never, never, Task.Handlers>,
  options = quick
) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  yield* Scope.provide(start(handlers, options), scope)
  return scope
})

const record = (id: string) => Effect.flatMap(Broker.use((broker) => broker.find(id)), Effect.fromOption)

export const workerBehaviour = <E>(name: string, broker: Layer.Layer<Broker, E>) =>
  layer(broker, { excludeTestServices: true, timeout: "30 seconds" })(`a worker over ${name}`, (it) => {
    it.effect("runs a task and gives its result to who awaits it, before and after it ended", () =>
      Effect.gen(function*() {
        yield* start(Echo.toLayer(({ text }) => Effect.succeed(text.toUpperCase())))
        const handle = yield* Echo.send({ text: "hello" })
        assert.strictEqual(yield* handle.await, "HELLO")
        assert.strictEqual(yield* Echo.await(handle.id), "HELLO")
      }))

    it.effect("retries typed failures on the definition's schedule, and fails with the last one", () =>
      Effect.gen(function*() {
        const attempts: Array<number> = []
        yield* start(Flaky.toLayer(({ failures, worthIt }) =>
          Effect.gen(function*() {
            const { attempt } = yield* Task.CurrentTask
            attempts.push(attempt)
            return attempt <= failures ? yield* new Shaky({ worthIt, attempt }) : attempt
          })
        ))
        const succeeds = yield* Flaky.send({ failures: 2, worthIt: true })
        assert.strictEqual(yield* succeeds.await, 3)
        assert.deepStrictEqual(attempts.splice(0), [1, 2, 3])
        assert.deepStrictEqual((yield* record(succeeds.id)).history.map(({ attempt, outcome }) => [attempt, outcome]), [
          [1, "Error"],
          [2, "Error"],
          [3, "Completed"]
        ])

        const exhausted = yield* Flaky.send({ failures: 99, worthIt: true })
        assert.deepStrictEqual(yield* Effect.flip(exhausted.await), new Shaky({ worthIt: true, attempt: 4 }))
        assert.deepStrictEqual(attempts.splice(0), [1, 2, 3, 4])

        const hopeless = yield* Flaky.send({ failures: 99, worthIt: false })
        assert.deepStrictEqual(yield* Effect.flip(hopeless.await), new Shaky({ worthIt: false, attempt: 1 }))
        assert.deepStrictEqual(attempts, [1])
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
        const broker = yield* Broker
        const good = yield* Echo.send({ text: "good" })
        const id = good.id.slice(0, -4) + "ffff"
        yield* broker.send([{
          id,
          name: "Echo",
          queue: "default",
          payload: `{"text":1}`,
          priority: 100,
          due: { after: 0 },
          maxLosses: 3
        }])
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

    it.effect("hands back at once what has not started when it stops, and what it had to interrupt", () =>
      Effect.gen(function*() {
        const started = yield* Deferred.make<void>()
        const finalized = yield* Deferred.make<void>()
        const scope = yield* startIn(
          Held.toLayer(() =>
            Deferred.succeed(started, undefined).pipe(
              Effect.andThen(Effect.never),
              Effect.ensuring(Deferred.succeed(finalized, undefined))
            )
          ),
          { ...quick, concurrency: 1, shutdownTimeout: "50 millis" }
        )
        const handles = yield* Effect.forEach([1, 2, 3], (n) => Held.send({ n }))
        yield* Deferred.await(started)
        yield* Scope.close(scope, Exit.void)
        assert.isTrue(yield* Deferred.isDone(finalized))
        for (const handle of handles) {
          const { attempts, losses, state } = yield* record(handle.id)
          assert.deepStrictEqual({ attempts, losses, state }, { attempts: 0, losses: 0, state: "PENDING" })
        }
        yield* start(Held.toLayer(({ n }) => Effect.succeed(n)))
        assert.deepStrictEqual(yield* Effect.forEach(handles, (handle) => handle.await), [1, 2, 3])
      }))

    it.effect("waits for what is running when it stops, and records it", () =>
      Effect.gen(function*() {
        const started = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const scope = yield* startIn(Held.toLayer(({ n }) =>
          Deferred.succeed(started, undefined).pipe(Effect.andThen(Deferred.await(go)), Effect.as(n))
        ))
        const handle = yield* Held.send({ n: 5 })
        yield* Deferred.await(started)
        const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(closing)
        assert.strictEqual((yield* record(handle.id)).state, "COMPLETED")
      }))

    it.effect("waits for what is running when it is interrupted, as by a signal", () =>
      Effect.gen(function*() {
        const broker = yield* Broker
        const started = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const program = yield* start(Held.toLayer(({ n }) =>
          Deferred.succeed(started, undefined).pipe(Effect.andThen(Deferred.await(go)), Effect.as(n))
        )).pipe(
          Effect.andThen(Effect.never),
          Effect.scoped,
          Effect.provideService(Broker, broker),
          Effect.forkChild({ startImmediately: true })
        )
        const handle = yield* Held.send({ n: 6 })
        yield* Deferred.await(started)
        const stopping = yield* Effect.forkChild(Fiber.interrupt(program), { startImmediately: true })
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(stopping)
        const { attempts, state } = yield* record(handle.id)
        assert.deepStrictEqual({ attempts, state }, { attempts: 1, state: "COMPLETED" })
      }))

    it.effect("an attempt whose handler interrupts itself has failed, like one that dies", () =>
      Effect.gen(function*() {
        yield* start(Held.toLayer(() => Effect.interrupt))
        const error = yield* Effect.flip(Effect.flatMap(Held.send({ n: 8 }), (handle) => handle.await))
        assert.instanceOf(error, Task.TaskDefect)
        assert.include(error.message, "interrupted itself")
      }))

    it.effect("refuses bad options of a send before anything is sent", () =>
      Effect.gen(function*() {
        for (
          const options of [
            { priority: 0 },
            { priority: 101 },
            { priority: 1.5 },
            { delay: -1 },
            { delay: Number.POSITIVE_INFINITY },
            { runAt: "not a time" },
            { delay: 1, runAt: 0 }
          ]
        ) {
          const error = yield* Effect.flip(Echo.send({ text: "refused" }, options))
          assert.strictEqual(error._tag, "PayloadError", JSON.stringify(options))
        }
        const error = yield* Effect.flip(Echo.send({ text: 1 as never }))
        assert.strictEqual(error._tag, "PayloadError")
      }))

    it.effect("says so when there is no such task", () =>
      Effect.gen(function*() {
        const id = "01890000-0000-7000-8000-000000000000"
        const error = yield* Effect.flip(Echo.await(id))
        assert.strictEqual(error._tag, "TaskNotFound")
        assert.deepStrictEqual(yield* Broker.use((broker) => broker.find(id)), Option.none())
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
  })
