/** Several brokers over one database, as the processes of an application are. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { Broker } from "../../src/Broker.ts"
import type { PostgresConfig } from "../../src/PostgresConfig.ts"
import type { TestDatabase } from "../support/TestDatabase.ts"
import {
  advance,
  claim,
  claimOne,
  completed,
  ended,
  find,
  finish,
  ids,
  isFor,
  lease,
  newTask,
  newTasks,
  outcome,
  recover,
  send,
  sendAndClaim,
  startWorker,
  sweep,
  uniqueQueue,
  wakeUpThat,
  want
} from "./Harness.ts"
import * as PostgresHarness from "./postgresHarness.ts"

/** The broker of another process. */
class Elsewhere extends Context.Service<Elsewhere, Broker["Service"]>()(
  "effect-horsies/test/contract/Elsewhere"
) {}

/** Runs an effect in the other process. */
const there = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Elsewhere, (broker) => Effect.provideService(effect, Broker, broker))

/** Wake-ups in the other process, once it hears of what is sent here. */
const wakeUpsThere = Effect.gen(function*() {
  const wakeUps = yield* there(Effect.flatten(Broker.useSync((broker) => broker.wakeUps)))
  const queue = uniqueQueue()
  const knocking = yield* Effect.forkChild(Effect.repeat(send(newTask({ queue })), Schedule.spaced("20 millis")))
  yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent" && wakeUp.queue === queue)
  yield* Fiber.interrupt(knocking)
  return wakeUps
})

const two = <E, R>(broker: Layer.Layer<Broker, E, R>) =>
  Layer.provideMerge(
    Layer.effect(Elsewhere, Effect.map(Layer.build(Layer.fresh(broker)), Context.get(Broker))),
    broker
  )

/** Two brokers of a kind over the database of the harness. */
export const processes = <E>(what: string, broker: Layer.Layer<Broker, E, PostgresConfig | TestDatabase>) =>
  layer(Layer.provideMerge(two(broker), PostgresHarness.layer), { excludeTestServices: true })(what, (it) => {
    it.effect("a send here wakes workers there: queue, priority, due time", () =>
      Effect.gen(function*() {
        const wakeUps = yield* wakeUpsThere
        const [ready, delayed] = [uniqueQueue(), uniqueQueue()]
        yield* send(newTask({ queue: ready, priority: 3 }), newTask({ queue: delayed, due: { after: 60_000 } }))
        const first = yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent" && wakeUp.queue === ready)
        assert.isTrue(first._tag === "Sent" && first.priority === 3 && first.dueIn <= 0)
        yield* send(newTask({ queue: delayed, due: { after: 30_000 } }))
        const second = yield* wakeUpThat(
          wakeUps,
          (wakeUp) => wakeUp._tag === "Sent" && wakeUp.queue === delayed && wakeUp.dueIn <= 30_000
        )
        assert.isTrue(second._tag === "Sent" && second.dueIn > 10_000)
      }))

    it.effect("a burst of sends to many queues here wakes workers there for each of them", () =>
      Effect.gen(function*() {
        const wakeUps = yield* wakeUpsThere
        // More than fits into one NOTIFY.
        const queues = Array.from({ length: 200 }, () => `${uniqueQueue()} ${"x".repeat(200)}`)
        const heard = new Set<string>()
        yield* Effect.forEach(queues, (queue) => send(newTask({ queue })), { concurrency: "unbounded", discard: true })
        yield* wakeUpThat(wakeUps, (wakeUp) => {
          if (wakeUp._tag === "Sent" && wakeUp.queue.endsWith("x")) heard.add(wakeUp.queue)
          return heard.size === queues.length
        })
        assert.sameMembers([...heard], queues)
      }))

    it.effect("what is released or recovered here wakes workers there", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const hold = yield* sendAndClaim(worker, { queue })
        const wakeUps = yield* wakeUpsThere
        yield* Broker.use((broker) => broker.release(worker, [hold]))
        yield* wakeUpThat(wakeUps, isFor(queue))
        yield* claimOne(worker, queue)
        yield* advance(lease + 1)
        yield* recover
        yield* wakeUpThat(wakeUps, isFor(queue))
      }))

    it.effect("an outcome recorded here reaches who awaits it there, at once", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const tasks = newTasks(300, { queue })
        yield* send(...tasks)
        const waiting = yield* Effect.forkChild(
          there(Effect.forEach(tasks, ({ id }) => outcome(id), { concurrency: "unbounded" })),
          { startImmediately: true }
        )
        const claimed = yield* claim(worker, want(queue))
        yield* finish(worker, ...claimed.map((task) => ended(task, completed(`"${task.id}"`))))
        assert.deepStrictEqual(
          yield* Effect.timeout(Fiber.join(waiting), "3 seconds"),
          tasks.map(({ id }) => ({ _tag: "Completed", value: `"${id}"` } as const))
        )
      }))

    it.effect("a loss noticed here reaches who awaits the task there", () =>
      Effect.gen(function*() {
        const task = newTask({ queue: uniqueQueue(), maxLosses: 1 })
        yield* send(task)
        yield* claimOne(yield* startWorker, task.queue)
        const waiting = yield* Effect.forkChild(there(outcome(task.id)), { startImmediately: true })
        yield* advance(lease + 1)
        yield* recover
        const result = yield* Effect.timeout(Fiber.join(waiting), "3 seconds")
        assert.isTrue(result._tag === "Failed" && result.failure.kind === "Lost")
      }))

    it.effect("claims of both at the same time never overlap and find everything", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const tasks = newTasks(3000, { queue })
        yield* send(...tasks)
        const worker = yield* startWorker
        const claimed: Array<string> = []
        const claiming = Effect.gen(function*() {
          while (claimed.length < tasks.length) {
            claimed.push(...ids(yield* claim(worker, want(queue, { slots: 13 }))))
          }
        })
        yield* Effect.all([claiming, there(claiming), claiming, there(claiming)], { concurrency: "unbounded" })
        assert.deepStrictEqual(claimed.toSorted(), ids(tasks).toSorted())
      }))

    it.effect("nobody is declared dead until the server has been up for one lease", () =>
      Effect.gen(function*() {
        const sql = yield* PostgresHarness.TestSql
        yield* recover
        yield* startWorker
        yield* sql`update test_server set started_at = statement_timestamp()`
        yield* advance(lease * 10)
        assert.strictEqual((yield* recover).workers, 0)
        yield* sql`update test_server set started_at = '-infinity'`
        assert.strictEqual((yield* recover).workers, 1)
      }))

    it.effect("a task that ends on a day without a partition is kept, found and awaited all the same", () =>
      Effect.gen(function*() {
        const worker = yield* startWorker
        const [finished, lost] = [yield* sendAndClaim(worker), yield* sendAndClaim(worker, { maxLosses: 1 })]
        yield* advance(20 * 86_400_000)
        yield* finish(worker, ended(finished, completed("1")))
        yield* there(recover)
        assert.deepStrictEqual(yield* there(outcome(finished.id)), { _tag: "Completed", value: "1" })
        assert.strictEqual((yield* outcome(lost.id))._tag, "Failed")
        assert.strictEqual((yield* find(finished.id)).state, "COMPLETED")
        assert.strictEqual((yield* find(lost.id)).state, "FAILED")
        const sql = yield* PostgresHarness.TestSql
        assert.lengthOf(yield* sql`select from horsies_history_overflow`, 2)
        yield* there(sweep)
        // That has made the partitions of the new days.
        const next = yield* sendAndClaim(yield* startWorker)
        const nextWorker = (yield* find(next.id)).worker!
        yield* finish(nextWorker, ended(next, completed()))
        assert.lengthOf(yield* sql`select from horsies_history_overflow`, 2)
      }))
  })
