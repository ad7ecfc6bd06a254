/** The contract of `outcome` and `find`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import { Broker, FailureKind } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  claim,
  claimOne,
  completed,
  ended,
  failed,
  failure,
  find,
  finish,
  newTask,
  now,
  outcome,
  promote,
  retry,
  send,
  sendAndClaim,
  startWorker,
  timeless,
  uniqueQueue,
  uuid,
  want
} from "./steps.ts"

/** Callers that wait from before the end on. */
const await3 = (id: string) =>
  Effect.forkChild(Effect.all([outcome(id), outcome(id), outcome(id)], { concurrency: "unbounded" }), {
    startImmediately: true
  })

export const outcomes = (it: It) => {
  it.effect("a success reaches who awaits it, before the end and after", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const task = newTask({ queue: uniqueQueue() })
      yield* send(task)
      const early = yield* await3(task.id)
      yield* finish(worker, ended(yield* claimOne(worker, task.queue), completed(`{"a":1}`)))
      const expected = { _tag: "Completed", value: `{"a":1}` } as const
      assert.deepStrictEqual(yield* Fiber.join(early), [expected, expected, expected])
      assert.deepStrictEqual(yield* outcome(task.id), expected)
    }))

  for (const kind of FailureKind.literals) {
    it.effect(`a failure of kind ${kind} reaches who awaits it, before the end and after`, () =>
      Effect.gen(function*() {
        const worker = yield* startWorker
        const task = newTask({ queue: uniqueQueue() })
        yield* send(task)
        const early = yield* await3(task.id)
        yield* finish(worker, ended(yield* claimOne(worker, task.queue), failed(kind, `{"why":"${kind}"}`)))
        const expected = { _tag: "Failed", failure: { kind, value: `{"why":"${kind}"}` } } as const
        assert.deepStrictEqual(yield* Fiber.join(early), [expected, expected, expected])
        assert.deepStrictEqual(yield* outcome(task.id), expected)
      }))
  }

  it.effect("awaiting a task that was never sent fails with TaskNotFound", () =>
    Effect.gen(function*() {
      const id = uuid()
      const error = yield* Effect.flip(outcome(id))
      assert.strictEqual(error._tag, "TaskNotFound")
      assert.isTrue(error._tag === "TaskNotFound" && error.id === id)
      assert.isTrue(Option.isNone(yield* Broker.use((broker) => broker.find(id))))
    }))

  it.effect("an id may be written in capitals", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const capitals = hold.id.toUpperCase()
      assert.strictEqual((yield* find(capitals)).id, hold.id)
      const awaited = yield* await3(capitals)
      yield* finish(worker, ended(hold, completed()))
      assert.deepStrictEqual(yield* Fiber.join(awaited), Array.from({ length: 3 }, () => completed()))
    }))

  it.effect("a text that no task can have as its id is not found, and disturbs nobody who waits", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const [early, wrong] = yield* Effect.all(
        [await3(hold.id), Effect.forkChild(Effect.flip(outcome("no id")), { startImmediately: true })]
      )
      assert.strictEqual((yield* Fiber.join(wrong))._tag, "TaskNotFound")
      assert.isTrue(Option.isNone(yield* Broker.use((broker) => broker.find("no id"))))
      yield* finish(worker, ended(hold, completed("1")))
      assert.lengthOf(yield* Fiber.join(early), 3)
    }))

  it.effect("who awaits a task is not told of attempts that do not end it", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const broker = yield* Broker
      const task = newTask({ queue: uniqueQueue() })
      yield* send(task)
      const early = yield* await3(task.id)
      yield* finish(worker, ended(yield* claimOne(worker, task.queue), retry(0)))
      yield* broker.release(worker, [yield* claimOne(worker, task.queue)])
      yield* finish(worker, ended(yield* claimOne(worker, task.queue), retry(0)))
      assert.isUndefined(early.pollUnsafe())
      yield* finish(worker, ended(yield* claimOne(worker, task.queue), completed("3")))
      assert.deepStrictEqual((yield* Fiber.join(early))[0], { _tag: "Completed", value: "3" })
    }))

  it.effect("one who stops waiting does not disturb the others", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const [stays, leaves] = [yield* await3(hold.id), yield* await3(hold.id)]
      yield* Fiber.interrupt(leaves)
      yield* finish(worker, ended(hold, completed("1")))
      assert.lengthOf(yield* Fiber.join(stays), 3)
    }))

  it.effect("300 tasks that end at once tell everybody who awaits them", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const tasks = Array.from({ length: 300 }, (_, i) => newTask({ queue, payload: String(i) }))
      yield* send(...tasks)
      const all = yield* Effect.forkChild(
        Effect.forEach(tasks, ({ id }) => outcome(id), { concurrency: "unbounded" }),
        { startImmediately: true }
      )
      const claimed = yield* claim(worker, want(queue))
      yield* finish(worker, ...claimed.map((task) => ended(task, completed(task.payload))))
      assert.deepStrictEqual(
        yield* Fiber.join(all),
        tasks.map(({ payload }) => ({ _tag: "Completed", value: payload } as const))
      )
    }))

  it.effect("a task that waits is found with everything its sender said", () =>
    Effect.gen(function*() {
      const before = yield* now
      const task = newTask({ queue: uniqueQueue(), payload: `{"a": 1}`, priority: 3, due: { after: 60_000 } })
      yield* send(task)
      const { dueAt, sentAt, ...record } = yield* find(task.id)
      assert.isAtLeast(sentAt, before)
      assert.isAtMost(sentAt, yield* now)
      assert.approximately(dueAt, sentAt + 60_000, 0.01)
      assert.deepStrictEqual(record, {
        id: task.id,
        name: "work",
        queue: task.queue,
        payload: `{"a": 1}`,
        state: "PENDING",
        priority: 3,
        endedAt: undefined,
        fence: 0,
        attempts: 0,
        losses: 0,
        version: 1,
        goodUntil: undefined,
        timeout: undefined,
        concurrencyKey: undefined,
        tags: {},
        cancelling: false,
        origin: undefined,
        successor: undefined,
        worker: undefined,
        outcome: undefined,
        history: []
      })
    }))

  it.effect("a task with a given due time is found with that time", () =>
    Effect.gen(function*() {
      const at = (yield* now) + 123_456_789
      const task = newTask({ queue: uniqueQueue(), due: { at: Math.round(at) } })
      yield* send(task)
      assert.strictEqual((yield* find(task.id)).dueAt, Math.round(at))
    }))

  it.effect("a claimed task is found with its holder and its fence", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const record = yield* find(hold.id)
      assert.strictEqual(record.state, "CLAIMED")
      assert.strictEqual(record.worker, worker)
      assert.strictEqual(record.fence, hold.fence)
      assert.strictEqual(record.attempts, 0)
      assert.isUndefined(record.endedAt)
      assert.deepStrictEqual(record.history, [])
    }))

  it.effect("an ended task is found with its outcome and every attempt, the oldest first", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const [one, two] = [yield* startWorker, yield* startWorker]
      const begin = yield* now
      const first = yield* sendAndClaim(one, { queue })
      yield* finish(one, ended(first, retry(5000, "Error", `{"n":1}`), 10))
      yield* advance(5001)
      yield* promote(queue)
      yield* finish(two, ended(yield* claimOne(two, queue), retry(0, "Defect", "\"boom\""), 20))
      yield* finish(one, ended(yield* claimOne(one, queue), completed("3"), 30))
      const end = yield* now

      const found = yield* find(first.id)
      const { dueAt, endedAt, history, sentAt, ...record } = found
      assert.deepStrictEqual(record, {
        id: first.id,
        name: "work",
        queue,
        payload: "null",
        state: "COMPLETED",
        priority: 100,
        fence: 3,
        attempts: 3,
        losses: 0,
        version: 1,
        goodUntil: undefined,
        timeout: undefined,
        concurrencyKey: undefined,
        tags: {},
        cancelling: false,
        origin: undefined,
        successor: undefined,
        worker: one,
        outcome: { _tag: "Completed", value: "3" }
      })
      assert.isAtLeast(dueAt, begin + 5000)
      assert.isAtMost(sentAt, dueAt)
      assert.isAtMost(endedAt!, end)
      assert.deepStrictEqual(timeless(found), [
        { attempt: 1, outcome: "Error", worker: one, error: { n: 1 } },
        { attempt: 2, outcome: "Defect", worker: two, error: "boom" },
        { attempt: 3, outcome: "Completed", worker: one, error: undefined }
      ])
      for (const [i, attempt] of history.entries()) {
        assert.approximately(attempt.endedAt - attempt.startedAt!, (i + 1) * 10, 0.01)
        assert.isAtLeast(attempt.endedAt, history[i - 1]?.endedAt ?? begin)
      }
      assert.isAtLeast(history[1]!.endedAt - history[0]!.endedAt, 5000)
      assert.strictEqual(history[2]!.endedAt, endedAt)
    }))

  it.effect("a failed task is found with its failure as the last attempt", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      yield* finish(worker, ended(hold, failed("Payload", `"no"`)))
      const record = yield* find(hold.id)
      assert.strictEqual(record.state, "FAILED")
      assert.strictEqual(record.attempts, 1)
      assert.deepStrictEqual(record.outcome, { _tag: "Failed", failure: failure("Payload", `"no"`) })
      assert.deepStrictEqual(timeless(record), [{ attempt: 1, outcome: "Payload", worker, error: "no" }])
    }))
}
