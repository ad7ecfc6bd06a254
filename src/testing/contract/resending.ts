/** The contract of `resend`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker, type Filter } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  cancel,
  claim,
  claimOne,
  completed,
  ended,
  failed,
  find,
  finish,
  ids,
  isFor,
  newTask,
  newTasks,
  notStarted,
  now,
  send,
  sendAndClaim,
  startWorker,
  subscribe,
  uniqueQueue,
  uuid,
  wakeUpThat,
  want
} from "./steps.ts"

const resend = (filter: Filter) => Broker.use((broker) => broker.resend(filter))

export const resending = (it: It) => {
  it.effect("a FAILED task is sent again as a new one, and each names the other", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const task = newTask({
        queue,
        name: "fails",
        payload: `{"a": 1}`,
        version: 2,
        priority: 7,
        timeout: 1234,
        maxLosses: 5,
        concurrencyKey: "tenant",
        tags: { order: "1" }
      })
      yield* send(task)
      const handles = [{ name: "fails", version: 2 }]
      const hold = yield* claimOne(worker, queue, { handles })
      yield* finish(worker, ended(hold, failed()))
      const before = yield* now
      const [sent, ...others] = yield* resend({ ids: [task.id] })
      assert.deepStrictEqual(others, [])
      assert.strictEqual(sent!.origin, task.id)
      assert.isAbove(sent!.id.localeCompare(task.id), 0)

      const old = yield* find(task.id)
      assert.strictEqual(old.state, "FAILED")
      assert.strictEqual(old.successor, sent!.id)
      assert.isUndefined(old.origin)
      const { dueAt, sentAt, ...record } = yield* find(sent!.id)
      assert.isAtLeast(sentAt, before)
      assert.isAtMost(dueAt, yield* now)
      assert.deepStrictEqual(record, {
        id: sent!.id,
        name: "fails",
        queue,
        payload: `{"a": 1}`,
        state: "PENDING",
        priority: 7,
        endedAt: undefined,
        fence: 0,
        attempts: 0,
        losses: 0,
        version: 2,
        goodUntil: undefined,
        timeout: 1234,
        concurrencyKey: "tenant",
        tags: { order: "1" },
        cancelling: false,
        origin: task.id,
        successor: undefined,
        worker: undefined,
        outcome: undefined,
        history: []
      })
      const again = yield* claimOne(worker, queue, { handles })
      assert.strictEqual(again.id, sent!.id)
      assert.strictEqual(again.attempt, 1)
    }))

  it.effect("a task is sent again once; its successor again when that has failed too", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const first = yield* sendAndClaim(worker, { queue })
      yield* finish(worker, ended(first, failed()))
      const [second] = yield* resend({ queue })
      assert.deepStrictEqual(yield* resend({ queue }), [])
      yield* finish(worker, ended(yield* claimOne(worker, queue), failed()))
      const [third, ...others] = yield* resend({ queue })
      assert.deepStrictEqual(others, [])
      assert.strictEqual(third!.origin, second!.id)
      assert.strictEqual((yield* find(second!.id)).origin, first.id)
    }))

  it.effect("resends at the same time send a task again once", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* finish(worker, ended(yield* sendAndClaim(worker, { queue }), failed()))
      const sent = yield* Effect.forEach([1, 2, 3, 4, 5], () => resend({ queue }), { concurrency: "unbounded" })
      assert.lengthOf(sent.flat(), 1)
      assert.strictEqual((yield* claimOne(worker, queue)).id, sent.flat()[0]!.id)
    }))

  it.effect("only FAILED tasks are sent again", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const tasks = newTasks(5, { queue })
      yield* send(...tasks)
      const holds = yield* claim(worker, want(queue, { slots: 3 }))
      yield* finish(worker, ended(holds[0]!, completed()), notStarted(holds[1]!, { _tag: "Expired" }))
      yield* cancel({ ids: [tasks[4]!.id] })
      assert.deepStrictEqual(yield* resend({ queue }), [])
      assert.deepStrictEqual(yield* resend({ ids: [...ids(tasks), uuid()] }), [])
    }))

  it.effect("all failed tasks that fit a filter are sent again", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const tasks = Array.from({ length: 30 }, (_, i) =>
        newTask({
          queue,
          tags: { kind: i % 2 === 0 ? "a" : "b" }
        }))
      yield* send(...tasks)
      yield* finish(worker, ...(yield* claim(worker, want(queue))).map((hold) => ended(hold, failed())))
      const wakeUps = yield* subscribe
      const sent = yield* resend({ queue, tags: { kind: "a" } })
      yield* wakeUpThat(wakeUps, isFor(queue))
      assert.sameMembers(
        sent.map(({ origin }) => origin),
        ids(tasks.filter(({ tags }) => tags?.["kind"] === "a"))
      )
      assert.sameMembers(ids(yield* claim(worker, want(queue))), ids(sent))
      assert.lengthOf(yield* resend({ queue }), 15)
    }))
}
