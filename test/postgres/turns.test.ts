import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { claim, newTask, newTasks, send, startWorker, uniqueQueue, want } from "../contract/Harness.ts"
import * as TestBroker from "../support/TestBroker.ts"

layer(TestBroker.layer, { excludeTestServices: true })("one claim of many keys", (it) => {
  it.effect("gives its tasks in turns, however many it takes of each, and goes on after the key that was last", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const keysOf = (slots: number, ahead: number) =>
        Effect.map(
          claim(worker, want(queue, { slots, ahead })),
          (tasks) => tasks.map(({ concurrencyKey = "-" }) => concurrencyKey).join("")
        )
      yield* send(...newTasks(9, { queue, concurrencyKey: "c", priority: 1 }), ...newTasks(3, { queue, priority: 50 }))
      for (const concurrencyKey of ["a", "b", "d"]) yield* send(...newTasks(3, { queue, concurrencyKey }))
      assert.strictEqual(yield* keysOf(2, 0), "ab")
      assert.strictEqual(yield* keysOf(4, 10), "cd-abcd-abcd-cc".slice(0, 14))
    }))

  it.effect("gives in each key the most urgent first", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const tasks = ["a", "b"].flatMap((concurrencyKey) =>
        [3, 1, 2].map((priority) => newTask({ queue, concurrencyKey, priority }))
      )
      yield* send(...tasks)
      const claimed = yield* claim(yield* startWorker, want(queue, { slots: 1, ahead: 5 }))
      assert.deepStrictEqual(
        claimed.map(({ concurrencyKey, priority }) => `${concurrencyKey}${priority}`),
        ["a1", "b1", "a2", "b2", "a3", "b3"]
      )
    }))
})
