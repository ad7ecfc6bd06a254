/** The contract of rates: how many tasks of a queue, or of a key, start in a time. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { It } from "./Harness.ts"
import {
  advance,
  assertWithin,
  claim,
  claimOne,
  claims,
  completed,
  configure,
  ended,
  finish,
  newTask,
  newTasks,
  release,
  send,
  startWorker,
  sweep,
  uniqueQueue,
  want
} from "./steps.ts"

/** So long that what passes by itself during a test is nothing. */
const hour = 3_600_000

export const rates = (it: It) => {
  it.effect("a queue starts at most `limit` tasks at once, then one whenever its time has come", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* configure(queue, { limits: { rate: { limit: 4, per: 4 * hour } } })
      yield* send(...newTasks(20, { queue }))
      const first = yield* claims(worker, want(queue, { slots: 10 }))
      assert.lengthOf(first.tasks, 4)
      assertWithin(first.again.get(queue), hour)
      // What ends makes no room.
      yield* finish(worker, ...first.tasks.map((task) => ended(task, completed())))
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      yield* advance(hour + 1)
      const second = yield* claims(worker, want(queue))
      assert.lengthOf(second.tasks, 1)
      assertWithin(second.again.get(queue), hour)
      // What is not used gathers, up to the burst.
      yield* advance(2 * hour + 1)
      assert.lengthOf(yield* claim(worker, want(queue)), 2)
      yield* advance(100 * hour)
      assert.lengthOf(yield* claim(worker, want(queue)), 4)
    }))

  it.effect("`burst` says how many start at once", () =>
    Effect.gen(function*() {
      const [more, less] = [uniqueQueue(), uniqueQueue()]
      const worker = yield* startWorker
      yield* configure(more, { limits: { rate: { limit: 1, per: hour, burst: 3 } } })
      yield* configure(less, { limits: { rate: { limit: 10, per: 10 * hour, burst: 1 } } })
      for (const queue of [more, less]) {
        yield* send(...newTasks(10, { queue }))
        assert.lengthOf(yield* claim(worker, want(queue)), queue === more ? 3 : 1)
        yield* advance(hour + 1)
        assert.lengthOf(yield* claim(worker, want(queue)), 1)
      }
    }))

  it.effect("a claim that filled its slots says to look again at once, not when the next token comes", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* configure(queue, { limits: { rate: { limit: 3, per: 3 * hour } } })
      yield* send(...newTasks(5, { queue }))
      const worker = yield* startWorker
      const { again, tasks } = yield* claims(worker, want(queue, { slots: 2 }))
      assert.lengthOf(tasks, 2)
      assert.strictEqual(again.get(queue), 0)
      const next = yield* claims(worker, want(queue, { slots: 2 }))
      assert.lengthOf(next.tasks, 1)
      assertWithin(next.again.get(queue), hour)
    }))

  it.effect("each key has a rate of its own; tasks without a key have none", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* configure(queue, { limits: { perKey: { rate: { limit: 1, per: hour } } } })
      for (const concurrencyKey of ["a", "b", undefined]) yield* send(...newTasks(3, { queue, concurrencyKey }))
      const keysOf = (tasks: ReadonlyArray<{ readonly concurrencyKey: string | undefined }>) =>
        tasks.map(({ concurrencyKey }) => concurrencyKey)
      const first = yield* claims(worker, want(queue))
      assert.sameMembers(keysOf(first.tasks), ["a", "b", undefined, undefined, undefined])
      assertWithin(first.again.get(queue), hour)
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      yield* advance(hour + 1)
      assert.sameMembers(keysOf(yield* claim(worker, want(queue))), ["a", "b"])
    }))

  it.effect("a claim waits for whichever token comes first", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* configure(queue, {
        limits: { rate: { limit: 100, per: hour }, perKey: { rate: { limit: 1, per: hour } } }
      })
      yield* send(...newTasks(3, { queue, concurrencyKey: "a" }))
      assert.lengthOf(yield* claim(worker, want(queue)), 1)
      yield* advance(hour / 2)
      yield* send(...newTasks(3, { queue, concurrencyKey: "b" }))
      const { again, tasks } = yield* claims(worker, want(queue))
      assert.lengthOf(tasks, 1)
      assertWithin(again.get(queue), hour / 2)
    }))

  it.effect("the rate of a key is remembered while the key has no tasks", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* configure(queue, { limits: { perKey: { rate: { limit: 1, per: hour } } } })
      yield* send(newTask({ queue, concurrencyKey: "a" }))
      yield* finish(worker, ended(yield* claimOne(worker, queue), completed()))
      yield* sweep
      yield* send(newTask({ queue, concurrencyKey: "a" }))
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      yield* advance(hour + 1)
      yield* claimOne(worker, queue)
    }))

  it.effect("a task that is handed back has used its token", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* configure(queue, { limits: { rate: { limit: 1, per: hour } } })
      yield* send(...newTasks(1, { queue }))
      const [hold] = yield* claim(worker, want(queue))
      yield* release(worker, hold!)
      const { again, tasks } = yield* claims(worker, want(queue))
      assert.deepStrictEqual(tasks, [])
      assertWithin(again.get(queue), hour)
      yield* configure(queue, { limits: {} })
      assert.lengthOf(yield* claim(worker, want(queue)), 1)
    }))
}
