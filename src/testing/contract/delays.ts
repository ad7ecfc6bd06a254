/** The contract of due times: delayed sends, delayed retries, `promote`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { It } from "./Harness.ts"
import {
  advance,
  assertWithin,
  claim,
  claimOne,
  ended,
  find,
  finish,
  ids,
  newTask,
  newTasks,
  now,
  promote,
  promoteAll,
  retry,
  send,
  sendAndClaim,
  startWorker,
  uniqueQueue,
  want
} from "./steps.ts"

export const delays = (it: It) => {
  it.effect("a delayed task is claimable at its time and not before", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const [after, at] = [
        newTask({ queue, due: { after: 60_000 } }),
        newTask({ queue, due: { at: (yield* now) + 120_000 } })
      ]
      yield* send(at, after)
      assertWithin(yield* promote(queue), 60_000)
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      yield* advance(60_001)
      assertWithin(yield* promote(queue), 60_000)
      assert.deepStrictEqual(ids(yield* claim(worker, want(queue))), [after.id])
      yield* advance(60_001)
      assert.isUndefined(yield* promote(queue))
      assert.deepStrictEqual(ids(yield* claim(worker, want(queue))), [at.id])
    }))

  it.effect("a task whose time has passed when it is sent is claimable at once", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* send(newTask({ queue, due: { at: (yield* now) - 1000 } }))
      yield* claimOne(yield* startWorker, queue)
      assert.isUndefined(yield* promote(queue))
    }))

  it.effect("promote tells the time until the next due task of the given queues only", () =>
    Effect.gen(function*() {
      const [sooner, later, none] = [uniqueQueue(), uniqueQueue(), uniqueQueue()]
      yield* send(
        newTask({ queue: later, due: { after: 900_000 } }),
        newTask({ queue: later, due: { after: 800_000 } }),
        newTask({ queue: sooner, due: { after: 600_000 } }),
        newTask({ queue: none })
      )
      assertWithin(yield* promote(later, none), 800_000)
      assertWithin(yield* promote(later, sooner), 600_000)
      assert.isUndefined(yield* promote(none))
      assert.isUndefined(yield* promote())
    }))

  it.effect("tasks that become due are claimed in the order of the queue", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const tasks = [
        newTask({ queue, priority: 1, due: { after: 3000 } }),
        newTask({ queue, priority: 2, due: { after: 1000 } }),
        newTask({ queue, priority: 2, due: { after: 2000 } }),
        newTask({ queue, priority: 3 })
      ]
      yield* send(...tasks.toReversed())
      yield* advance(60_000)
      yield* promote(queue)
      assert.deepStrictEqual(ids(yield* claim(worker, want(queue))), ids(tasks))
    }))

  it.effect("however many tasks become due at once, all are promoted", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* send(...newTasks(2500, { queue, due: { after: 1000 } }), newTask({ queue, due: { after: 3_600_000 } }))
      yield* advance(1001)
      assertWithin(yield* promoteAll(queue), 3_600_000)
      assert.lengthOf(yield* claim(yield* startWorker, want(queue, { slots: 3000 })), 2500)
    }))

  it.effect("a delayed retry is claimable at its time, as the next attempt", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const first = yield* sendAndClaim(worker, { queue })
      assert.strictEqual((yield* finish(worker, ended(first, retry(60_000)))).accepted.size, 1)
      assertWithin(yield* promote(queue), 60_000)
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      const between = yield* find(first.id)
      assert.strictEqual(between.state, "PENDING")
      assert.strictEqual(between.attempts, 1)
      assert.isUndefined(between.worker)
      yield* advance(60_001)
      assert.isUndefined(yield* promote(queue))
      const second = yield* claimOne(worker, queue)
      assert.strictEqual(second.attempt, 2)
      assert.isAbove(second.fence, first.fence)
      assert.isBelow(second.waited, 20_000)
    }))

  it.effect("a retry without delay is claimable at once, behind what was due before", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const first = yield* sendAndClaim(worker, { queue })
      const earlier = newTask({ queue, due: { at: (yield* now) - 1 } })
      yield* send(earlier)
      yield* finish(worker, ended(first, retry(0)))
      assert.deepStrictEqual(ids(yield* claim(worker, want(queue))), [earlier.id, first.id])
    }))
}
