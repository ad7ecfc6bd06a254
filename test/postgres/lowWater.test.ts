/** While an old snapshot keeps the entries of ended tasks in the index, claims do not read them again and again. */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import {
  claim,
  completed,
  ended,
  finish,
  ids,
  newTask,
  newTasks,
  now,
  send,
  startWorker,
  uniqueQueue,
  want
} from "../contract/Harness.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"
import { reading } from "./reading.ts"

/** Keeps a snapshot of now until the scope closes. */
const oldSnapshot = Effect.gen(function*() {
  const sql = yield* SqlClient
  const taken = yield* Deferred.make<void>()
  const over = yield* Deferred.make<void>()
  const transaction = yield* Effect.forkChild(sql.withTransaction(Effect.gen(function*() {
    yield* sql`set transaction isolation level repeatable read`
    yield* sql`select 1 from horsies_tasks limit 1`
    yield* Deferred.succeed(taken, undefined)
    yield* Deferred.await(over)
  })))
  yield* Effect.addFinalizer(() =>
    Effect.andThen(Deferred.succeed(over, undefined), Effect.exit(Fiber.join(transaction)))
  )
  yield* Deferred.await(taken)
})

/** Tasks that were due one after the other, each a second after the one before. */
const inSequence = Effect.fnUntraced(function*(count: number, queue: string, names: ReadonlyArray<string>) {
  const start = (yield* now) - (count + 60) * 1000
  return Array.from(
    { length: count },
    (_, i) => newTask({ queue, name: names[i % names.length]!, due: { at: Math.round(start + i * 1000) } })
  )
})

layer(PostgresBroker.layer.pipe(Layer.provideMerge(PostgresHarness.layer)), { excludeTestServices: true })(
  "with an old snapshot",
  (it) => {
    for (const names of [["a"], ["a", "b"]]) {
      it.effect(`a claim over ${names.length} names reads what is new, and no entry of what has ended`, () =>
        Effect.gen(function*() {
          const sql = yield* PgClient.PgClient
          yield* sql`alter table horsies_tasks set (autovacuum_enabled = false)`
          const queue = uniqueQueue()
          const worker = yield* startWorker
          const batch = want(queue, { names, slots: 500 })
          const tasks = yield* inSequence(4000, queue, names)
          yield* send(...tasks)
          yield* oldSnapshot
          const done: Array<string> = []
          for (let i = 0; i < 6; i++) {
            const claimed = yield* claim(worker, batch)
            done.push(...ids(claimed))
            yield* finish(worker, ...claimed.map((task) => ended(task, completed())))
          }
          const marked = yield* reading(claim(worker, want(queue, { names, slots: 100 })))
          assert.deepStrictEqual([...done, ...ids(marked.result)], ids(tasks).slice(0, 3100))
          assert.isAtMost(marked.entries["horsies_tasks_ready"] ?? Number.NaN, 100 * (names.length + 1) + 20)

          // A broker that knows nothing of what was claimed reads all of it: so the entries are there.
          const other = yield* Layer.build(Layer.fresh(PostgresBroker.layerSqlClient()))
          const unmarked = yield* reading(Effect.provide(claim(worker, want(queue, { names, slots: 100 })), other))
          assert.deepStrictEqual(ids(unmarked.result), ids(tasks).slice(3100, 3200))
          assert.isAtLeast(unmarked.entries["horsies_tasks_ready"] ?? Number.NaN, 3100)
        }))
    }

    it.effect("a claim finds what has become ready before the mark: sent late, released, retried", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const broker = yield* Broker
        const worker = yield* startWorker
        const tasks = yield* inSequence(40, queue, ["work"])
        yield* send(...tasks)
        const claimed = yield* claim(worker, want(queue, { slots: 10 }))
        yield* claim(worker, want(queue, { slots: 10 }))
        yield* broker.release(worker, claimed.slice(0, 2))
        assert.deepStrictEqual(
          ids(yield* claim(worker, want(queue, { slots: 4 }))),
          ids([...tasks.slice(0, 2), ...tasks.slice(20, 22)])
        )
        const late = newTasks(2, { queue, due: { at: Math.round(yield* now) - 3_600_000 } })
        const urgent = newTask({ queue, priority: 1 })
        yield* send(...late, urgent)
        assert.deepStrictEqual(ids(yield* claim(worker, want(queue, { slots: 4 }))), ids([urgent, ...late, tasks[22]!]))
      }))

    it.effect("a task that was interrupted keeps its place before the mark, in the same step and afterwards", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const broker = yield* Broker
        const worker = yield* startWorker
        const tasks = yield* inSequence(40, queue, ["work"])
        yield* send(...tasks)
        const claimed = yield* claim(worker, want(queue, { slots: 10 }))
        yield* claim(worker, want(queue, { slots: 10 }))
        const [one, two] = claimed.slice(0, 2).map((task) => ended(task, { _tag: "Interrupted", why: "Shutdown" }))
        yield* finish(worker, one!)
        assert.deepStrictEqual(ids(yield* claim(worker, want(queue, { slots: 2 }))), ids([tasks[0]!, tasks[20]!]))
        const fused = yield* broker.finish(worker, [two!], [want(queue, { slots: 2 })])
        assert.deepStrictEqual(ids(fused.claimed.tasks), ids([tasks[1]!, tasks[21]!]))
      }))
  }
)
