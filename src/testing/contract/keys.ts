/** The contract of concurrency keys: the keys of a queue take turns. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { ClaimedTask } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  claim,
  claims,
  completed,
  ended,
  find,
  finish,
  ids,
  newTask,
  newTasks,
  now,
  send,
  startWorker,
  uniqueQueue,
  want
} from "./steps.ts"

const keysOf = (tasks: ReadonlyArray<ClaimedTask>) => tasks.map(({ concurrencyKey }) => concurrencyKey)

/** Claims so many tasks: a claim that gives less than it could says so. */
const claimAll = Effect.fnUntraced(function*(worker: string, queue: string, count: number) {
  const claimed: Array<ClaimedTask> = []
  while (claimed.length < count) {
    const { again, tasks } = yield* claims(worker, want(queue, { slots: count - claimed.length }))
    claimed.push(...tasks)
    if (claimed.length < count && again.get(queue) !== 0) {
      assert.fail(`claimed ${claimed.length} of ${count} tasks, and is not to look again`)
    }
  }
  return claimed
})

export const keys = (it: It) => {
  it.effect("a task is claimed and found with its key", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* send(newTask({ queue, concurrencyKey: "tenant 🐎" }))
      const [task] = yield* claim(yield* startWorker, want(queue))
      assert.strictEqual(task!.concurrencyKey, "tenant 🐎")
      assert.strictEqual((yield* find(task!.id)).concurrencyKey, "tenant 🐎")
    }))

  for (const slots of [1, 2, 3, 5]) {
    it.effect(`keys take turns, and tasks without one count as one key, ${slots} at a time`, () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const keys = ["a", "b", undefined]
        // All of the first key are more urgent than those of the second, and so on.
        for (const [i, concurrencyKey] of keys.entries()) {
          yield* send(...newTasks(4, { queue, concurrencyKey, priority: 10 + i }))
        }
        const turns: Array<string | undefined> = []
        while (turns.length < 12) {
          turns.push(...keysOf(yield* claimAll(worker, queue, Math.min(slots, 12 - turns.length))))
          const counts = keys.map((key) => turns.filter((turn) => turn === key).length)
          assert.isAtMost(Math.max(...counts) - Math.min(...counts), 1, JSON.stringify(turns))
        }
      }))
  }

  it.effect("inside a key the order is that of a queue: priority, due time, id", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const at = Math.round(yield* now) - 60_000
      const tasks = ["a", "b"].flatMap((concurrencyKey) => [
        newTask({ queue, concurrencyKey, priority: 1, due: { at: at + 5000 } }),
        newTask({ queue, concurrencyKey, priority: 2, due: { at } }),
        newTask({ queue, concurrencyKey, priority: 2, due: { at } }),
        newTask({ queue, concurrencyKey, priority: 2, due: { at: at + 1 } })
      ])
      yield* send(...tasks.toReversed())
      const claimed: Array<ClaimedTask> = []
      for (let i = 0; i < 4; i++) claimed.push(...(yield* claimAll(worker, queue, 2)))
      for (const key of ["a", "b"]) {
        assert.deepStrictEqual(
          ids(claimed.filter(({ concurrencyKey }) => concurrencyKey === key)),
          ids(tasks.filter(({ concurrencyKey }) => concurrencyKey === key))
        )
      }
    }))

  it.effect("a key that has tasks of unknown names only takes no turn", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* send(
        ...newTasks(3, { queue, concurrencyKey: "a", name: "unknown" }),
        ...newTasks(3, { queue, concurrencyKey: "b" })
      )
      assert.deepStrictEqual(keysOf(yield* claim(yield* startWorker, want(queue))), ["b", "b", "b"])
    }))

  it.effect("slots and ahead of a queue with keys are filled together", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      for (const concurrencyKey of ["a", "b"]) yield* send(...newTasks(4, { queue, concurrencyKey }))
      const claimed = yield* claim(yield* startWorker, want(queue, { slots: 2, ahead: 2 }))
      assert.sameMembers(keysOf(claimed), ["a", "b", "a", "b"])
    }))

  it.effect(
    "a busy key does not keep others waiting: 50 keys with 10 tasks each beside one with 1,000",
    () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        yield* send(...newTasks(1000, { queue, concurrencyKey: "hot", priority: 1 }))
        yield* send(...Array.from({ length: 500 }, (_, i) => newTask({ queue, concurrencyKey: `key ${i % 50}` })))
        let [hot, others] = [0, 0]
        while (others < 500) {
          const claimed = yield* claim(worker, want(queue, { slots: 8 }))
          assert.lengthOf(claimed, 8)
          const ofHot = keysOf(claimed).filter((key) => key === "hot").length
          hot += ofHot
          others += claimed.length - ofHot
          yield* finish(worker, ...claimed.map((task) => ended(task, completed())))
        }
        assert.isBelow(hot, 50)
      }),
    60_000
  )

  it.effect("a key that comes up now has its turn before the others have had two", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      for (const concurrencyKey of ["a", "b"]) yield* send(...newTasks(10, { queue, concurrencyKey }))
      yield* claim(worker, want(queue, { slots: 5 }))
      yield* send(newTask({ queue, concurrencyKey: "c" }))
      assert.include(keysOf(yield* claim(worker, want(queue, { slots: 5 }))), "c")
    }))
}
