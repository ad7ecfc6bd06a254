/** How what runs is stopped: by the end of its worker, or by who does not want it any more. */
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import { type It, outcomes, quick, record, start, startIn } from "../support/worker.ts"
import { Held } from "./tasks.ts"

export const stopping = (it: It) => {
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

  it.effect("says in the record that it was its own shutdown", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const scope = yield* startIn(
        Held.toLayer(() => Effect.andThen(Deferred.succeed(started, undefined), Effect.never)),
        { ...quick, shutdownTimeout: "20 millis" }
      )
      const handle = yield* Held.send({ n: 1 })
      yield* Deferred.await(started)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Shutdown"])
      yield* start(Held.toLayer(({ n }) => Effect.succeed(n)))
      assert.strictEqual(yield* handle.await, 1)
      const { attempts } = yield* record(handle.id)
      assert.strictEqual(attempts, 1)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Shutdown", "Completed"])
    }))

  it.effect("hands a task on although its handler does not let itself be interrupted", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const scope = yield* startIn(
        Held.toLayer(() =>
          Deferred.succeed(started, undefined).pipe(
            Effect.andThen(Deferred.await(go)),
            Effect.as(-1),
            Effect.uninterruptible
          )
        ),
        { ...quick, shutdownTimeout: "20 millis" }
      )
      const handle = yield* Held.send({ n: 2 })
      yield* Deferred.await(started)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Shutdown"])
      yield* start(Held.toLayer(({ n }) => Effect.succeed(n)))
      assert.strictEqual(yield* handle.await, 2)
      yield* Deferred.succeed(go, undefined)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Shutdown", "Completed"])
    }))

  it.effect("interrupts the handler of a task that is cancelled, and ends it", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const finalized = yield* Deferred.make<void>()
      yield* start(
        Held.toLayer(({ n }) =>
          n > 1 ? Effect.succeed(n) : Deferred.succeed(started, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.ensuring(Deferred.succeed(finalized, undefined))
          )
        ),
        { ...quick, concurrency: 1 }
      )
      const running = yield* Held.send({ n: 1 })
      const waiting = yield* Held.send({ n: 2 })
      const next = yield* Held.send({ n: 3 })
      yield* Deferred.await(started)
      const began = performance.now()
      yield* Broker.use((broker) => broker.cancel({ ids: [running.id, waiting.id] }))
      assert.instanceOf(yield* Effect.flip(running.await), Task.TaskCancelled)
      assert.isBelow(performance.now() - began, 1000)
      assert.isTrue(yield* Deferred.isDone(finalized))
      assert.instanceOf(yield* Effect.flip(waiting.await), Task.TaskCancelled)
      assert.deepStrictEqual(yield* outcomes(running.id), ["Cancelled"])
      assert.deepStrictEqual(yield* outcomes(waiting.id), [])
      // Its slot is free again.
      assert.strictEqual(yield* next.await, 3)
    }))

  it.effect("a finalizer that dies does not hide why its handler was interrupted", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      yield* start(Held.toLayer(() =>
        Deferred.succeed(started, undefined).pipe(
          Effect.andThen(Effect.never),
          Effect.ensuring(Effect.die("the finalizer is broken"))
        )
      ))
      const handle = yield* Held.send({ n: 1 })
      yield* Deferred.await(started)
      yield* Broker.use((broker) => broker.cancel({ ids: [handle.id] }))
      assert.instanceOf(yield* Effect.flip(handle.await), Task.TaskCancelled)
    }))

  it.effect("what a handler has come to in spite of its interruption counts", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      // As a worker gets it from a definition whose result takes its time to encode.
      const handler: Task.Handler = {
        definition: {
          name: "Held",
          version: 1,
          queue: "held",
          priority: 100,
          timeout: undefined,
          maxLosses: 3,
          retention: undefined,
          idempotencyWindow: 86_400_000
        },
        transaction: false,
        batch: undefined,
        run: () =>
          Effect.exit(Effect.interruptible(Effect.andThen(Deferred.succeed(started, undefined), Effect.never))).pipe(
            Effect.as({ _tag: "Completed", value: "5" })
          ),
        failed: (_, failure) => Effect.succeed({ _tag: "Failed", failure }),
        interruptedItself: () => Effect.succeed({ _tag: "Cancelled" })
      }
      yield* start(Layer.effectDiscard(Task.Handlers.use((handlers) => handlers.register(handler))))
      const handle = yield* Held.send({ n: 1 })
      yield* Deferred.await(started)
      yield* Broker.use((broker) => broker.cancel({ ids: [handle.id] }))
      assert.strictEqual(yield* handle.await, 5)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Completed"])
    }))
}
