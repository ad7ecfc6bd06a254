/** The contract of `claim`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  claim,
  claimOne,
  ids,
  newTask,
  newTasks,
  now,
  payloads,
  send,
  sendAndClaim,
  startWorker,
  uniqueQueue,
  uuid,
  want
} from "./steps.ts"

/** An id with a given place in the order. */
const idAt = (place: number) => `01890000-0000-7000-8000-${String(place).padStart(12, "0")}`

export const claiming = (it: It) => {
  for (const step of [1, 2, 3, 100]) {
    it.effect(`a queue is served by priority, then due time, then id, across its names, ${step} at a time`, () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const at = (yield* now) - 60_000
        const base = step * 1000
        // Each is before the next in the order; the payload says its place.
        const places: ReadonlyArray<readonly [priority: number, dueAt: number, id: number, name: string]> = [
          [1, 20_000, 9, "a"],
          [2, 0, 1, "b"],
          [2, 0, 2, "a"],
          [2, 0, 8, "c"],
          [2, 5000, 0, "c"],
          [2, 30_000, 3, "a"],
          [50, 0, 7, "b"],
          [100, 10_000, 5, "a"],
          [100, 10_001, 4, "b"],
          [100, 50_000, 6, "b"]
        ]
        const tasks = places.map(([priority, dueAt, id, name], place) =>
          newTask({ queue, id: idAt(base + id), name, priority, due: { at: at + dueAt }, payload: String(place) })
        )
        // Not sent in that order.
        for (const i of [3, 8, 0, 6, 9, 1, 5, 2, 7, 4]) yield* send(tasks[i]!)
        const claimed: Array<string> = []
        while (claimed.length < tasks.length) {
          const some = yield* claim(worker, want(queue, { names: ["c", "a", "b"], slots: step }))
          assert.lengthOf(some, Math.min(step, tasks.length - claimed.length))
          claimed.push(...payloads(some))
        }
        assert.deepStrictEqual(claimed, tasks.map(({ payload }) => payload))
      }))
  }

  it.effect("names that were not asked for are left alone", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const [known, unknown] = [newTask({ queue, name: "known" }), newTask({ queue, name: "unknown", priority: 1 })]
      yield* send(unknown, known)
      assert.deepStrictEqual(ids(yield* claim(worker, want(queue, { names: ["known"] }))), [known.id])
      assert.deepStrictEqual(yield* claim(worker, want(queue, { names: ["known"] })), [])
      assert.deepStrictEqual(yield* claim(worker, want(queue, { names: [] })), [])
      assert.deepStrictEqual(ids(yield* claim(worker, want(queue, { names: ["known", "unknown"] }))), [unknown.id])
    }))

  it.effect("every queue gives what was wanted of it: slots and ahead, and nothing more", () =>
    Effect.gen(function*() {
      const [one, two, three, other] = [uniqueQueue(), uniqueQueue(), uniqueQueue(), uniqueQueue()]
      const worker = yield* startWorker
      for (const queue of [one, two, three, other]) yield* send(...newTasks(10, { queue }))
      const claimed = yield* claim(
        worker,
        want(one, { slots: 2, ahead: 3 }),
        want(two, { slots: 0, ahead: 4 }),
        want(three, { slots: 0, ahead: 0 })
      )
      const count = (queue: string) => claimed.filter((task) => task.queue === queue).length
      assert.deepStrictEqual([one, two, three, other].map(count), [5, 4, 0, 0])
      assert.lengthOf(yield* claim(worker, want(one)), 5)
      assert.deepStrictEqual(yield* claim(worker), [])
    }))

  it.effect("a claimed task is not claimed again", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const [one, two] = [yield* startWorker, yield* startWorker]
      yield* sendAndClaim(one, { queue })
      assert.deepStrictEqual(yield* claim(one, want(queue)), [])
      assert.deepStrictEqual(yield* claim(two, want(queue)), [])
    }))

  it.effect("every claim of a task raises its fence", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      const workers = [yield* startWorker, yield* startWorker]
      yield* send(newTask({ queue }))
      let fence = 0
      for (let i = 0; i < 6; i++) {
        const worker = workers[i % 2]!
        const claimed = yield* claimOne(worker, queue)
        assert.isAbove(claimed.fence, fence)
        fence = claimed.fence
        yield* broker.release(worker, [claimed])
      }
    }))

  it.effect("a claim tells how long the task has been due", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const { waited } = yield* sendAndClaim(worker, { due: { at: (yield* now) - 90_000 } })
      assert.isAtLeast(waited, 90_000)
      assert.isBelow(waited, 110_000)
    }))

  it.effect("a worker that is not registered, or no longer, gets nothing", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      const task = newTask({ queue })
      yield* send(task)
      assert.deepStrictEqual(yield* claim(uuid(), want(queue)), [])
      const gone = yield* startWorker
      yield* broker.deregister(gone)
      assert.deepStrictEqual(yield* claim(gone, want(queue)), [])
      assert.strictEqual((yield* claimOne(yield* startWorker, queue)).id, task.id)
    }))

  it.effect("two workers that claim from many fibers at once never get the same task", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const names = ["a", "b", "c"]
      const tasks = Array.from({ length: 1200 }, (_, i) => newTask({ queue, name: names[i % 3]!, priority: 1 + i % 4 }))
      yield* send(...tasks)
      const workers = [yield* startWorker, yield* startWorker]
      const claimed: Array<string> = []
      yield* Effect.forEach(
        Array.from({ length: 12 }, (_, i) => workers[i % 2]!),
        (worker) =>
          Effect.gen(function*() {
            // A claim may come back with less than there is: what others are about to take is not waited for.
            while (claimed.length < tasks.length) {
              claimed.push(...ids(yield* claim(worker, want(queue, { names, slots: 5, ahead: 2 }))))
            }
          }),
        { concurrency: "unbounded", discard: true }
      )
      assert.deepStrictEqual(claimed.toSorted(), ids(tasks).toSorted())
    }))
}
