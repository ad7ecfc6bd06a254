/** What a worker process shows of itself in the database, and what its handlers know. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import * as Worker from "../../src/Worker.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { quick, record, start, startIn, until } from "../support/worker.ts"
import { Echo, Held } from "./tasks.ts"

/** What the handlers of `Held` need. */
class Resource extends Context.Service<Resource, { isOpen: boolean }>()("effect-horsies/test/worker/Resource") {}

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("a worker process", (it) => {
  it.effect("has one row, updated in place, that says what it runs; another start has another", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const first = yield* startIn(Held.toLayer(() => Effect.never))
      const handles = [yield* Held.send({ n: 1 }), yield* Held.send({ n: 2 })]
      const ids = `'{${handles.map(({ id }) => id).join()}}'::uuid[]`
      yield* until(`select running @> ${ids} and running <@ ${ids} from horsies_heartbeats`)
      // Nothing but the claim is written when a handler starts.
      const rows = yield* sql`select worker, attempts, past from horsies_tasks`
      const [{ worker }] = (yield* sql`select worker from horsies_heartbeats`) as [{ worker: string }]
      assert.deepStrictEqual(rows, Array.from({ length: 2 }, () => ({ worker, attempts: 0, past: null })))
      yield* until(
        `select count(*) = 1 and max(beat_at) > max(started_at) + interval '600 milliseconds' from horsies_heartbeats`
      )

      yield* startIn(Echo.toLayer(({ text }) => Effect.succeed(text)))
      assert.lengthOf(yield* sql`select from horsies_heartbeats where worker <> ${worker}`, 1)
      yield* Scope.close(first, Exit.void)
      assert.lengthOf(yield* sql`select from horsies_heartbeats where worker = ${worker}`, 0)
      for (const { id } of handles) assert.strictEqual((yield* record(id)).state, "PENDING")
      yield* Broker.use((broker) => broker.cancel({ queue: "held" }))
    }))

  it.effect("tells its handlers the fence of their claim, which only goes up", () =>
    Effect.gen(function*() {
      const fences: Array<number> = []
      yield* start(
        Echo.toLayer(({ text }) =>
          Effect.gen(function*() {
            const { fence } = yield* Task.CurrentTask
            if (fences.push(fence) < 3) return yield* Task.snooze("1 millis")
            return text
          })
        )
      )
      const handle = yield* Echo.send({ text: "third time" })
      assert.strictEqual(yield* handle.await, "third time")
      assert.deepStrictEqual(fences, [1, 2, 3])
      assert.strictEqual((yield* record(handle.id)).fence, 3)
    }))

  it.effect("lets the runs of a handler end before what the handler needs is closed, and claims no more for it", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const resource = Layer.effect(
        Resource,
        Effect.acquireRelease(
          Effect.sync((): { isOpen: boolean } => ({ isOpen: true })),
          (resource) => Effect.sync(() => void (resource.isOpen = false))
        )
      )
      const worker = yield* Layer.build(Layer.fresh(Worker.layer({ ...quick, concurrency: 1 })))
      const scope = yield* Scope.fork(yield* Effect.scope)
      yield* Held.toLayer(({ n }) =>
        Effect.gen(function*() {
          yield* Deferred.succeed(started, undefined)
          yield* Deferred.await(go)
          return (yield* Resource).isOpen ? n : -1
        })
      ).pipe(
        Layer.provide(Layer.fresh(resource)),
        Layer.provide(Layer.succeedContext(worker)),
        Layer.build,
        Scope.provide(scope)
      )
      const running = yield* Held.send({ n: 3 })
      const waiting = yield* Held.send({ n: 4 })
      yield* Deferred.await(started)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* running.await, 3)
      yield* Fiber.join(closing)
      // The worker is there still, and serves whatever has a handler.
      yield* Echo.toLayer(({ text }) => Effect.succeed(text)).pipe(
        Layer.provide(Layer.succeedContext(worker)),
        Layer.build
      )
      assert.strictEqual(yield* Effect.flatMap(Echo.send({ text: "other" }), (handle) => handle.await), "other")
      assert.strictEqual((yield* record(waiting.id)).state, "PENDING")
    }))

  it.effect("gives a transaction that waits for its handler ten minutes, and leaves nothing of that behind", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const limit = Effect.map(
        sql`select current_setting('idle_in_transaction_session_timeout') as value`,
        ([row]) => String(row!["value"])
      )
      yield* start(
        Echo.toLayer(() => Effect.orDie(limit), { transaction: true }) as Layer.Layer<never, never, Task.Handlers>
      )
      assert.strictEqual(yield* Effect.flatMap(Echo.send({ text: "" }), (handle) => handle.await), "10min")
      assert.strictEqual(yield* limit, "0")
    }))
})
