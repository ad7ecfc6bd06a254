/** While an old snapshot keeps the entries of ended tasks in the index, claims do not read them again and again. */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker, type Limits } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import {
  claim,
  completed,
  configure,
  ended,
  finish,
  ids,
  newTask,
  newTasks,
  now,
  release,
  send,
  startWorker,
  uniqueQueue,
  uuid,
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
const inSequence = Effect.fnUntraced(
  function*(count: number, queue: string, names: ReadonlyArray<string>, concurrencyKey?: string) {
    const start = (yield* now) - (count + 60) * 1000
    return Array.from({ length: count }, (_, i) =>
      newTask({
        queue,
        name: names[i % names.length]!,
        due: { at: Math.round(start + i * 1000) },
        ...(concurrencyKey === undefined ? {} : { concurrencyKey })
      }))
  }
)

const otherKeys = ["d", "g", "p", "t"]

/** Queues with a hot key: it comes before all others, among them, or after them. */
const hotKeys: Readonly<
  Record<
    string,
    { readonly hot: string; readonly names: ReadonlyArray<string>; readonly limits?: Limits; readonly slots?: number }
  >
> = {
  "first of a queue": { hot: "a", names: ["a"] },
  "last of a queue": { hot: "z", names: ["a"] },
  "of two names": { hot: "k", names: ["a", "b"] },
  "first of a queue with a cap": { hot: "a", names: ["a"], limits: { concurrency: 600 } },
  "last of a queue with a cap": { hot: "z", names: ["a"], limits: { concurrency: 600 } },
  "of two names in a queue with a cap": { hot: "k", names: ["a", "b"], limits: { concurrency: 600 } },
  "at its own cap": { hot: "k", names: ["a"], limits: { perKey: { concurrency: 300 } }, slots: 400 }
}

layer(PostgresHarness.broker, { excludeTestServices: true })(
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

    for (const [which, { hot, limits, names, slots = 100 }] of Object.entries(hotKeys)) {
      it.effect(`a claim over a hot key, ${which}, reads what is new, and no entry of what has ended`, () =>
        Effect.gen(function*() {
          const sql = yield* PgClient.PgClient
          yield* sql`alter table horsies_tasks set (autovacuum_enabled = false)`
          const queue = uniqueQueue()
          if (limits !== undefined) yield* configure(queue, { limits })
          const worker = yield* startWorker
          const tasks = yield* inSequence(4000, queue, names, hot)
          const others = Effect.suspend(() => {
            const some = otherKeys.map((concurrencyKey) => newTask({ queue, name: names[0]!, concurrencyKey }))
            return Effect.as(send(...some), some)
          })
          const done = new Set<string>()
          const step = Effect.fnUntraced(function*(slots: number) {
            const sent = yield* others
            const { entries, result } = yield* reading(claim(worker, want(queue, { names, slots })))
            assert.includeMembers(ids(result), ids(sent), "every key has its turn")
            for (const id of ids(result)) done.add(id)
            yield* finish(worker, ...result.map((task) => ended(task, completed())))
            return { count: result.length, read: entries["horsies_tasks_ready"] ?? Number.NaN }
          })
          yield* send(...tasks)
          yield* oldSnapshot
          for (let i = 0; i < 8; i++) yield* step(400)
          // Every 5 seconds one claim goes without marks: one of two at most.
          const steps = [yield* step(slots), yield* step(slots)]
          const { count, read } = steps[0]!.read < steps[1]!.read ? steps[0]! : steps[1]!
          // Of several names, a look at their heads tells which are the most urgent.
          assert.isAtMost(read, (names.length + 2) * count + 200)
          for (const name of names) {
            const all = ids(tasks.filter((task) => task.name === name))
            const first = all.findIndex((id) => !done.has(id))
            assert.isTrue(all.slice(first).every((id) => !done.has(id)), "in their order")
          }

          const other = yield* Layer.build(Layer.fresh(PostgresBroker.layerSqlClient()))
          const unmarked = yield* reading(Effect.provide(claim(worker, want(queue, { names, slots: 100 })), other))
          assert.isAtLeast(unmarked.entries["horsies_tasks_ready"] ?? Number.NaN, done.size)
        }))
    }

    for (const limits of [undefined, { concurrency: 1000, perKey: { concurrency: 900 } }]) {
      const which = limits === undefined ? "without limits" : "with limits"
      it.effect(`a claim finds what has become ready before the mark of a hot key, ${which}`, () =>
        Effect.gen(function*() {
          const sql = yield* SqlClient
          const queue = uniqueQueue()
          if (limits !== undefined) yield* configure(queue, { limits })
          const worker = yield* startWorker
          const tasks = yield* inSequence(200, queue, ["work"], "hot")
          yield* send(...tasks)
          const claimed = yield* claim(worker, want(queue, { slots: 50 }))
          yield* claim(worker, want(queue, { slots: 50 }))
          yield* release(worker, ...claimed.slice(0, 2))
          assert.deepStrictEqual(
            ids(yield* claim(worker, want(queue, { slots: 44 }))),
            ids([...tasks.slice(0, 2), ...tasks.slice(100, 142)])
          )
          const [late] = newTasks(1, { queue, concurrencyKey: "hot", due: { at: Math.round(yield* now) - 3_600_000 } })
          const urgent = newTask({ queue, concurrencyKey: "hot", priority: 1 })
          yield* send(late!, urgent)
          assert.deepStrictEqual(
            ids(yield* claim(worker, want(queue, { slots: 3 }))),
            ids([urgent, late!, tasks[142]!])
          )
          // Nobody has said that it is there: who has seen the end looks again.
          const unannounced = uuid()
          yield* sql`insert into horsies_tasks (id, run_at, sent_at, priority, due, queue, name, payload, concurrency_key)
            values (${unannounced}::uuid, now() - interval '1 hour', now(), 100, true, ${queue}, 'work', 'null', 'hot')`
          yield* claim(worker, want(queue, { slots: 7 }))
          assert.sameMembers(
            ids(yield* claim(worker, want(queue, { slots: 100 }))),
            [unannounced, ...ids(tasks.slice(150))]
          )
        }))
    }

    it.effect("a claim finds what has become ready before the mark: sent late, released", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const tasks = yield* inSequence(40, queue, ["work"])
        yield* send(...tasks)
        const claimed = yield* claim(worker, want(queue, { slots: 10 }))
        yield* claim(worker, want(queue, { slots: 10 }))
        yield* release(worker, ...claimed.slice(0, 2))
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
        const worker = yield* startWorker
        const tasks = yield* inSequence(40, queue, ["work"])
        yield* send(...tasks)
        const claimed = yield* claim(worker, want(queue, { slots: 10 }))
        yield* claim(worker, want(queue, { slots: 10 }))
        const [one, two] = claimed.slice(0, 2).map((task) => ended(task, { _tag: "Interrupted", why: "Shutdown" }))
        yield* finish(worker, one!)
        assert.deepStrictEqual(ids(yield* claim(worker, want(queue, { slots: 2 }))), ids([tasks[0]!, tasks[20]!]))
        const wants = [want(queue, { slots: 2 })]
        const fused = yield* Broker.use((broker) => broker.finish(worker, [two!], wants))
        assert.deepStrictEqual(ids(fused.claimed.tasks), ids([tasks[1]!, tasks[21]!]))
      }))
  }
)
