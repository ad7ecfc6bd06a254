/** The contract of `goodUntil`: a task that has not been started by then ends EXPIRED. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { It } from "./Harness.ts"
import {
  advance,
  assertWithin,
  claim,
  claimOne,
  completed,
  configure,
  ended,
  find,
  finish,
  ids,
  newTask,
  newTasks,
  notStarted,
  now,
  outcome,
  promote,
  promoteAll,
  release,
  retry,
  send,
  sendAndClaim,
  startWorker,
  uniqueQueue,
  want
} from "./steps.ts"

const expired = { _tag: "Expired" } as const

export const expiry = (it: It) => {
  it.effect("a task that waits when its time is over is ended by promote, and who awaits it is told", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const task = newTask({ queue, goodUntil: { after: 60_000 } })
      yield* send(task)
      const waiting = yield* Effect.forkChild(outcome(task.id), { startImmediately: true })
      yield* promoteAll(queue)
      assert.strictEqual((yield* find(task.id)).state, "PENDING")
      yield* advance(60_001)
      yield* promoteAll(queue)
      assert.deepStrictEqual(yield* Effect.timeout(Fiber.join(waiting), "2 seconds"), expired)
      assert.deepStrictEqual(yield* outcome(task.id), expired)
      const { attempts, endedAt, goodUntil, history, state, worker } = yield* find(task.id)
      assert.deepStrictEqual({ attempts, history, state, worker }, {
        attempts: 0,
        history: [],
        state: "EXPIRED",
        worker: undefined
      })
      assert.isAtLeast(endedAt!, goodUntil!)
      assert.deepStrictEqual(yield* claim(yield* startWorker, want(queue)), [])
    }))

  it.effect("a task whose time is over is never claimed, even before anybody has ended it", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const [over, good] = [
        newTask({ queue, priority: 1, goodUntil: { after: 60_000 } }),
        newTask({ queue, goodUntil: { after: 120_000 } })
      ]
      yield* send(over, good)
      yield* advance(60_001)
      assert.deepStrictEqual(ids(yield* claim(yield* startWorker, want(queue))), [good.id])
    }))

  it.effect("a claim tells how long the task is good still", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const until = Math.round((yield* now) + 90_000)
      yield* send(newTask({ queue, goodUntil: { at: until } }), newTask({ queue }))
      yield* advance(30_000)
      const [good, always] = yield* claim(yield* startWorker, want(queue))
      assertWithin(good!.expiresIn, 60_000)
      assert.isUndefined(always!.expiresIn)
      assert.strictEqual((yield* find(good!.id)).goodUntil, until)
    }))

  it.effect("promote tells when the next time is over, of what is ready and of what is delayed", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* send(
        newTask({ queue, goodUntil: { after: 300_000 } }),
        newTask({ queue, due: { after: 200_000 }, goodUntil: { after: 400_000 } })
      )
      for (const [next, passes] of [[200_000, 200_001], [100_000, 100_001], [100_000, 100_001]] as const) {
        assertWithin(yield* promoteAll(queue), next)
        yield* advance(passes)
      }
      assert.isUndefined(yield* promoteAll(queue))
    }))

  it.effect("a task that may not start before its time is over expires all the same", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const task = newTask({ queue, due: { after: 120_000 }, goodUntil: { after: 60_000 } })
      yield* send(task)
      yield* advance(60_001)
      yield* promoteAll(queue)
      assert.strictEqual((yield* find(task.id)).state, "EXPIRED")
      assert.isUndefined(yield* promote(queue))
    }))

  it.effect("a task that nobody would ever start expires: paused, unknown name, newer version", () =>
    Effect.gen(function*() {
      const [paused, unknown] = [uniqueQueue(), uniqueQueue()]
      const goodUntil = { after: 60_000 }
      const tasks = [
        newTask({ queue: paused, goodUntil }),
        newTask({ queue: unknown, name: "unknown", goodUntil }),
        newTask({ queue: unknown, version: 99, goodUntil })
      ]
      yield* send(...tasks)
      yield* configure(paused, { paused: true })
      yield* advance(60_001)
      for (const queue of [paused, unknown]) yield* promoteAll(queue)
      for (const { id } of tasks) assert.strictEqual((yield* find(id)).state, "EXPIRED")
    }))

  it.effect("a claimed task does not expire: its outcome counts whenever it comes", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker, { queue, goodUntil: { after: 60_000 } })
      yield* advance(60_001)
      yield* promoteAll(queue)
      assert.strictEqual((yield* find(hold.id)).state, "CLAIMED")
      yield* finish(worker, ended(hold, completed("1")))
      assert.deepStrictEqual(yield* outcome(hold.id), { _tag: "Completed", value: "1" })
    }))

  it.effect("a task that waits again when its time is over expires: released, retried", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const tasks = newTasks(2, { queue, goodUntil: { after: 60_000 } })
      yield* send(...tasks)
      const [one, two] = yield* claim(worker, want(queue))
      yield* advance(60_001)
      yield* release(worker, one!)
      yield* finish(worker, ended(two!, retry(0)))
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      yield* promoteAll(queue)
      for (const { id } of tasks) assert.strictEqual((yield* find(id)).state, "EXPIRED")
    }))

  it.effect("a worker that comes too late to start a task ends it EXPIRED, without an attempt", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker, { goodUntil: { after: 60_000 } })
      const { accepted } = yield* finish(worker, notStarted(hold, expired))
      assert.deepStrictEqual([...accepted], [hold.id])
      assert.deepStrictEqual(yield* outcome(hold.id), expired)
      const { attempts, history, state } = yield* find(hold.id)
      assert.deepStrictEqual({ attempts, history, state }, { attempts: 0, history: [], state: "EXPIRED" })
    }))

  it.effect("however many tasks are over at once, all expire", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const tasks = newTasks(2500, { queue, goodUntil: { after: 1000 } })
      yield* send(...tasks)
      yield* advance(1001)
      assert.isUndefined(yield* promoteAll(queue))
      for (const task of [tasks[0]!, tasks[1249]!, tasks[2499]!]) {
        assert.strictEqual((yield* find(task.id)).state, "EXPIRED")
      }
      assert.deepStrictEqual(yield* claim(yield* startWorker, want(queue)), [])
    }))

  it.effect("a task that expires leaves claims of another queue alone", () =>
    Effect.gen(function*() {
      const [one, other] = [uniqueQueue(), uniqueQueue()]
      yield* send(newTask({ queue: one, goodUntil: { after: 1000 } }), newTask({ queue: other }))
      yield* advance(1001)
      yield* promoteAll(one)
      yield* claimOne(yield* startWorker, other)
    }))
}
