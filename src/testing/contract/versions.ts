/** The contract of versions: workers leave alone what is newer than they know. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { It } from "./Harness.ts"
import { assertRefused, claim, find, ids, newTask, send, startWorker, uniqueQueue, want } from "./steps.ts"

export const versions = (it: It) => {
  it.effect("a worker is given every version up to the one that it knows, and none above", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      // The newer, the more urgent: what cannot be taken does not stand in the way.
      const tasks = [1, 2, 3, 10].map((version) => newTask({ queue, version, priority: 11 - version }))
      yield* send(...tasks)
      const claimUpTo = (version: number) => claim(worker, want(queue, { handles: [{ name: "work", version }] }))
      const first = yield* claimUpTo(2)
      assert.deepStrictEqual(ids(first), ids([tasks[1]!, tasks[0]!]))
      assert.deepStrictEqual(first.map(({ version }) => version), [2, 1])
      assert.deepStrictEqual(yield* claimUpTo(2), [])
      assert.deepStrictEqual(ids(yield* claimUpTo(3)), [tasks[2]!.id])
      assert.deepStrictEqual(ids(yield* claimUpTo(100)), [tasks[3]!.id])
    }))

  it.effect("each name has versions of its own", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const tasks = ["a", "b"].flatMap((name) => [1, 2].map((version) => newTask({ queue, name, version })))
      yield* send(...tasks)
      const handles = [{ name: "a", version: 2 }, { name: "b", version: 1 }]
      const claimed = yield* claim(yield* startWorker, want(queue, { handles }))
      assert.deepStrictEqual(ids(claimed), ids(tasks.slice(0, 3)))
    }))

  it.effect("a task is found with its version", () =>
    Effect.gen(function*() {
      const task = newTask({ queue: uniqueQueue(), version: 7 })
      yield* send(task)
      assert.strictEqual((yield* find(task.id)).version, 7)
    }))

  it.effect("a version below 1 is refused", () =>
    Effect.gen(function*() {
      assertRefused(yield* Effect.flip(send(newTask({ queue: uniqueQueue(), version: 0 }))))
    }))
}
