/** The contract of `finish` and `release`, and of the hold that both name. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type AttemptEnd, Broker, type EndedAttempt, type Hold } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  claim,
  claimOne,
  completed,
  ended,
  failed,
  find,
  finish,
  ids,
  newTask,
  newTasks,
  outcome,
  retry,
  send,
  sendAndClaim,
  startWorker,
  uniqueQueue,
  uuid,
  want
} from "./steps.ts"

export const finishing = (it: It) => {
  it.effect("finishing records the attempts whose hold stands and says which", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(...newTasks(3, { queue }))
      const [one, two, three] = yield* claim(worker, want(queue))
      const { accepted, claimed } = yield* finish(
        worker,
        ended(one!, completed("1")),
        ended({ id: uuid(), fence: 1 }, completed()),
        ended(two!, failed()),
        ended(three!, retry(0))
      )
      assert.sameMembers([...accepted], ids([one!, two!, three!]))
      assert.deepStrictEqual(claimed.tasks, [])
      assert.deepStrictEqual(
        [(yield* find(one!.id)).state, (yield* find(two!.id)).state, (yield* find(three!.id)).state],
        ["COMPLETED", "FAILED", "PENDING"]
      )
    }))

  it.effect("finishing nothing is no error", () =>
    Effect.gen(function*() {
      const { accepted, claimed } = yield* finish(yield* startWorker)
      assert.strictEqual(accepted.size, 0)
      assert.deepStrictEqual(claimed.tasks, [])
    }))

  const ends: Readonly<Record<string, AttemptEnd>> = {
    completion: completed("\"stale\""),
    failure: failed("Error", "\"stale\""),
    retry: retry(0, "Error", "\"stale\"")
  }
  for (const [what, end] of Object.entries(ends)) {
    it.effect(`a ${what} under a hold that does not stand changes nothing and is not accepted`, () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const broker = yield* Broker
        const [holder, other] = [yield* startWorker, yield* startWorker]
        const refused = Effect.fnUntraced(function*(worker: string, hold: Hold) {
          const before = yield* find(hold.id)
          const { accepted } = yield* finish(worker, ended(hold, end))
          assert.strictEqual(accepted.size, 0)
          assert.deepStrictEqual(yield* find(hold.id), before)
        })
        const first = yield* sendAndClaim(holder, { queue })
        // Another worker, another fence.
        yield* refused(other, first)
        yield* refused(uuid(), first)
        yield* refused(holder, { id: first.id, fence: first.fence + 1 })
        yield* refused(holder, { id: first.id, fence: first.fence - 1 })
        // Handed back, and claimed again.
        yield* broker.release(holder, [first])
        yield* refused(holder, first)
        const second = yield* claimOne(other, queue)
        yield* refused(holder, first)
        yield* refused(holder, second)
        yield* refused(other, first)
        const third = yield* Effect.andThen(broker.release(other, [second]), claimOne(other, queue))
        yield* refused(other, second)
        // Ended.
        yield* finish(other, ended(third, completed("\"fresh\"")))
        yield* refused(other, third)
        assert.deepStrictEqual(yield* outcome(third.id), { _tag: "Completed", value: "\"fresh\"" })
      }))
  }

  it.effect("of two outcomes for one hold exactly one is recorded", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const results = yield* Effect.forEach(
        ["1", "2", "3", "4"],
        (value) => Effect.map(finish(worker, ended(hold, completed(value))), ({ accepted }) => ({ accepted, value })),
        { concurrency: "unbounded" }
      )
      const recorded = results.filter(({ accepted }) => accepted.has(hold.id))
      assert.lengthOf(recorded, 1)
      assert.deepStrictEqual(yield* outcome(hold.id), { _tag: "Completed", value: recorded[0]!.value })
      assert.lengthOf((yield* find(hold.id)).history, 1)
    }))

  it.effect("finishing with wants claims in the same step", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const broker = yield* Broker
      const first = yield* sendAndClaim(worker, { queue })
      const waiting = [
        newTask({ queue, priority: 2 }),
        newTask({ queue, priority: 1 }),
        newTask({ queue, priority: 3 })
      ]
      yield* send(...waiting)
      const { accepted, claimed } = yield* broker.finish(
        worker,
        [ended(first, completed()), ended({ id: uuid(), fence: 1 }, completed())],
        [want(queue, { slots: 1, ahead: 1 })]
      )
      assert.deepStrictEqual([...accepted], [first.id])
      assert.deepStrictEqual(ids(claimed.tasks), [waiting[1]!.id, waiting[0]!.id])
      // What was claimed that way is held like any other.
      assert.strictEqual(
        (yield* finish(worker, ...claimed.tasks.map((task) => ended(task, completed())))).accepted.size,
        2
      )
    }))

  it.effect("a retry without delay can be claimed by the very step that records it", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const broker = yield* Broker
      const first = yield* sendAndClaim(worker, { queue })
      const { accepted, claimed } = yield* broker.finish(worker, [ended(first, retry(0))], [want(queue)])
      assert.deepStrictEqual([...accepted], [first.id])
      assert.deepStrictEqual(claimed.tasks.map(({ attempt, id }) => ({ attempt, id })), [{ attempt: 2, id: first.id }])
      assert.isAbove(claimed.tasks[0]!.fence, first.fence)
    }))

  it.effect("a worker that is not registered may finish nothing but still be told so", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      yield* send(newTask({ queue }))
      const { accepted, claimed } = yield* broker.finish(
        uuid(),
        [ended({ id: uuid(), fence: 1 }, completed())],
        [want(queue)]
      )
      assert.strictEqual(accepted.size, 0)
      assert.deepStrictEqual(claimed.tasks, [])
    }))

  it.effect("2,000 attempts of every kind are recorded in one step", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const broker = yield* Broker
      yield* send(...newTasks(2100, { queue }))
      const claimed = yield* claim(worker, want(queue, { slots: 2000 }))
      const attempts = claimed.map((task, i): EndedAttempt => {
        const end = [completed(String(i)), failed("Defect", String(i)), retry(3_600_000, "Error", String(i))][i % 3]!
        return ended(i % 10 === 9 ? { id: task.id, fence: task.fence + 1 } : task, end, i)
      })
      const result = yield* broker.finish(worker, attempts, [want(queue)])
      assert.sameMembers([...result.accepted], ids(claimed.filter((_, i) => i % 10 !== 9)))
      assert.lengthOf(result.claimed.tasks, 100)
      const states = yield* Effect.forEach(claimed.slice(0, 30), ({ id }) => Effect.map(find(id), ({ state }) => state))
      assert.deepStrictEqual(
        states,
        claimed.slice(0, 30).map((_, i) =>
          i % 10 === 9 ? "CLAIMED" : (["COMPLETED", "FAILED", "PENDING"] as const)[i % 3]!
        )
      )
    }))

  it.effect("a released task is claimable at once and counts neither an attempt nor a loss", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      const [one, two] = [yield* startWorker, yield* startWorker]
      yield* send(newTask({ queue, priority: 1 }), newTask({ queue, priority: 2 }))
      const [first, second] = yield* claim(one, want(queue))
      yield* broker.release(one, [first!])
      const again = yield* claimOne(two, queue)
      assert.strictEqual(again.id, first!.id)
      assert.strictEqual(again.attempt, 1)
      assert.strictEqual(again.losses, 0)
      assert.deepStrictEqual((yield* find(again.id)).history, [])
      assert.strictEqual((yield* find(second!.id)).worker, one)
    }))

  it.effect("a release under a hold that does not stand changes nothing", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      const [holder, other] = [yield* startWorker, yield* startWorker]
      const hold = yield* sendAndClaim(holder, { queue })
      const before = yield* find(hold.id)
      yield* broker.release(other, [hold])
      yield* broker.release(holder, [{ id: hold.id, fence: hold.fence + 1 }, { id: uuid(), fence: 1 }])
      yield* broker.release(holder, [])
      assert.deepStrictEqual(yield* find(hold.id), before)
      yield* finish(holder, ended(hold, completed()))
      const over = yield* find(hold.id)
      yield* broker.release(holder, [hold])
      assert.deepStrictEqual(yield* find(hold.id), over)
    }))
}
