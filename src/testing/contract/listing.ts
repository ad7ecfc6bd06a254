/** The contract of `list`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker, type Filter, type Page, type TaskState } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  cancel,
  claim,
  completed,
  ended,
  failed,
  find,
  finish,
  ids,
  newTask,
  newTasks,
  notStarted,
  send,
  startWorker,
  uniqueQueue,
  want
} from "./steps.ts"

const list = (filter: Filter, page: Page = {}) => Broker.use((broker) => broker.list(filter, page))

export const listing = (it: It) => {
  it.effect("tasks are listed as they are found, live and ended ones, the last sent first", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const tasks = newTasks(4, { queue, tags: { a: "b" } })
      yield* send(...tasks)
      const [first, second] = yield* claim(worker, want(queue, { slots: 3 }))
      yield* finish(worker, ended(first!, completed("1")), ended(second!, failed()))
      const listed = yield* list({ queue })
      assert.deepStrictEqual(ids(listed), ids(tasks.toReversed()))
      for (const record of listed) assert.deepStrictEqual(record, yield* find(record.id))
    }))

  it.effect("tasks are listed by their states", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const tasks = newTasks(6, { queue })
      yield* send(...tasks)
      const holds = yield* claim(worker, want(queue, { slots: 4 }))
      yield* finish(
        worker,
        ended(holds[0]!, completed()),
        ended(holds[1]!, failed()),
        notStarted(holds[2]!, { _tag: "Expired" })
      )
      yield* cancel({ ids: [tasks[5]!.id] })
      const expected: Readonly<Record<TaskState, number>> = {
        COMPLETED: 0,
        FAILED: 1,
        EXPIRED: 2,
        CLAIMED: 3,
        PENDING: 4,
        CANCELLED: 5
      }
      for (const [state, place] of Object.entries(expected)) {
        assert.deepStrictEqual(ids(yield* list({ queue }, { states: [state as TaskState] })), [tasks[place]!.id])
      }
      assert.deepStrictEqual(
        ids(yield* list({ queue }, { states: ["FAILED", "PENDING", "CANCELLED"] })),
        ids([tasks[5]!, tasks[4]!, tasks[1]!])
      )
      assert.deepStrictEqual(yield* list({ queue }, { states: [] }), [])
    }))

  it.effect("a page ends at its limit, and the next begins behind its last task", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const tasks = newTasks(25, { queue })
      yield* send(...tasks)
      // Live and ended ones in turn.
      const holds = yield* claim(worker, want(queue))
      yield* finish(worker, ...holds.filter((_, i) => i % 2 === 0).map((hold) => ended(hold, completed())))
      const seen: Array<string> = []
      for (const count of [10, 10, 5, 0]) {
        const page = yield* list({ queue }, { limit: 10, before: seen.at(-1) })
        assert.lengthOf(page, count)
        seen.push(...ids(page))
      }
      assert.deepStrictEqual(seen, ids(tasks.toReversed()))
    }))

  it.effect("a page has 100 tasks when nothing else is said", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const tasks = newTasks(120, { queue })
      yield* send(...tasks)
      assert.deepStrictEqual(ids(yield* list({ queue })), ids(tasks.slice(20).toReversed()))
      assert.lengthOf(yield* list({ queue }, { limit: 1000 }), 120)
    }))

  it.effect("where nothing fits, the list is empty", () =>
    Effect.gen(function*() {
      const task = newTask({ queue: uniqueQueue() })
      yield* send(task)
      assert.deepStrictEqual(yield* list({ queue: uniqueQueue() }), [])
      assert.deepStrictEqual(yield* list({ ids: ["no id"] }), [])
      assert.deepStrictEqual(yield* list({ queue: task.queue }, { before: task.id }), [])
    }))
}
