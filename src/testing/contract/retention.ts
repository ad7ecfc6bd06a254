/** The contract of `retention`: how long ended tasks are kept. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Broker, type NewTask } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  cancel,
  completed,
  ended,
  failed,
  find,
  finish,
  ids,
  newTask,
  outcome,
  send,
  sendAndClaim,
  startWorker,
  sweep,
  uniqueQueue
} from "./steps.ts"

const day = 86_400_000

/** Removing is done in bounded steps, and may keep what ended on the same day together. */
const removal = Effect.andThen(advance(2 * day), Effect.repeat(sweep, { times: 5 }))

/** A task that has ended now. */
const endedTask = Effect.fnUntraced(function*(options: Partial<NewTask> = {}, fails = false) {
  const worker = yield* startWorker
  const hold = yield* sendAndClaim(worker, options)
  yield* finish(worker, ended(hold, fails ? failed() : completed("1")))
  return hold.id
})

const isGone = Effect.fnUntraced(function*(id: string) {
  const broker = yield* Broker
  const gone = Option.isNone(yield* broker.find(id))
  if (gone) {
    assert.strictEqual((yield* Effect.flip(outcome(id)))._tag, "TaskNotFound")
    assert.deepStrictEqual(yield* broker.list({ ids: [id] }, {}), [])
  }
  return gone
})

export const retention = (it: It) => {
  it.effect("an ended task is kept for the broker's retention and removed some time later", () =>
    Effect.gen(function*() {
      const retention = yield* Broker.use((broker) => broker.retention)
      const queue = uniqueQueue()
      const done = [yield* endedTask({ queue }), yield* endedTask({ queue }, true)]
      const cancelled = newTask({ queue })
      yield* send(cancelled)
      yield* cancel({ ids: [cancelled.id] })
      yield* advance(retention - day)
      yield* sweep
      assert.deepStrictEqual(yield* outcome(done[0]!), { _tag: "Completed", value: "1" })
      for (const id of [...done, cancelled.id]) assert.isFalse(yield* isGone(id))
      yield* removal
      for (const id of [...done, cancelled.id]) assert.isTrue(yield* isGone(id))
    }))

  it.effect("a task can say that it is kept shorter or longer than others", () =>
    Effect.gen(function*() {
      const retention = yield* Broker.use((broker) => broker.retention)
      const [short, plain, long] = [
        yield* endedTask({ retention: 3_600_000 }),
        yield* endedTask(),
        yield* endedTask({ retention: retention + 10 * day })
      ]
      yield* advance(3_500_000)
      yield* sweep
      assert.isFalse(yield* isGone(short))
      yield* removal
      assert.isTrue(yield* isGone(short))
      assert.isFalse(yield* isGone(plain))
      yield* advance(retention - 2 * day)
      yield* removal
      assert.isTrue(yield* isGone(plain))
      assert.isFalse(yield* isGone(long))
      yield* advance(10 * day)
      yield* removal
      assert.isTrue(yield* isGone(long))
    }))

  it.effect("what has not ended is kept for ever", () =>
    Effect.gen(function*() {
      const retention = yield* Broker.use((broker) => broker.retention)
      const queue = uniqueQueue()
      const tasks = [newTask({ queue, retention: 1 }), newTask({ queue, due: { after: retention * 10 }, retention: 1 })]
      yield* send(...tasks)
      yield* advance(retention)
      yield* removal
      for (const id of ids(tasks)) assert.strictEqual((yield* find(id)).state, "PENDING")
    }))

  it.effect("after a task was removed its id can be sent again", () =>
    Effect.gen(function*() {
      const task = newTask({ queue: uniqueQueue(), retention: 1, repeated: true })
      yield* send(task)
      yield* cancel({ ids: [task.id] })
      yield* removal
      assert.deepStrictEqual(yield* send(task), [{ id: task.id, duplicate: false }])
    }))
}
