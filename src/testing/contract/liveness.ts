/** The contract of `register`, `heartbeat`, `deregister` and `recover`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { Broker } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  claim,
  claimOne,
  completed,
  ended,
  find,
  finish,
  heartbeat,
  ids,
  lease,
  leasePasses,
  newTask,
  newTasks,
  outcome,
  recover,
  register,
  retry,
  send,
  sendAndClaim,
  startWorker,
  timeless,
  uniqueQueue,
  uuid,
  want
} from "./steps.ts"

/** What earlier tests have left behind is none of the next one's business. */
const cleanUp = recover

/** Claims the task under a new worker that is then lost. */
const lose = Effect.fnUntraced(function*(queue: string) {
  const worker = yield* startWorker
  yield* claimOne(worker, queue)
  yield* leasePasses()
  yield* recover
  return worker
})

export const liveness = (it: It) => {
  it.effect("a heartbeat is answered with true while the worker is believed alive, and with false from then on", () =>
    Effect.gen(function*() {
      const [alive, silent, gone] = [yield* startWorker, yield* startWorker, yield* startWorker]
      assert.isTrue((yield* heartbeat(silent)).alive)
      yield* Broker.use((broker) => broker.deregister(gone))
      yield* leasePasses(alive)
      yield* recover
      assert.isTrue((yield* heartbeat(alive)).alive)
      assert.isFalse((yield* heartbeat(silent)).alive)
      assert.isFalse((yield* heartbeat(silent)).alive)
      assert.isFalse((yield* heartbeat(gone)).alive)
      assert.isFalse((yield* heartbeat(uuid())).alive)
    }))

  it.effect("a heartbeat renews the lease, also one that has passed unnoticed", () =>
    Effect.gen(function*() {
      yield* cleanUp
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      for (const silence of [lease - 10_000, lease - 10_000, lease * 3]) {
        yield* advance(silence)
        assert.isTrue((yield* heartbeat(worker)).alive)
        assert.deepStrictEqual(yield* recover, { workers: 0, released: 0, failed: 0 })
      }
      assert.deepStrictEqual([...(yield* finish(worker, ended(hold, completed()))).accepted], [hold.id])
    }))

  it.effect("a recovery tells when the next lease passes", () =>
    Effect.gen(function*() {
      const [early, late] = [yield* startWorker, yield* startWorker]
      const nextIn = Broker.use((broker) => Effect.map(broker.recover, ({ nextIn }) => nextIn!))
      yield* leasePasses(early, late)
      yield* recover
      yield* heartbeat(early)
      yield* advance(10_000)
      yield* heartbeat(late)
      const first = yield* nextIn
      assert.isAtMost(first, lease - 10_000)
      assert.isAbove(first, lease - 15_000)
      yield* advance(lease - 9999)
      const second = yield* nextIn
      assert.isAtMost(second, 10_000)
      assert.isAbove(second, 5000)
      assert.isFalse((yield* heartbeat(early)).alive)
    }))

  it.effect("registering once more, after an answer that was lost, changes nothing", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      yield* register(worker)
      yield* sendAndClaim(worker)
    }))

  it.effect("a worker that was declared dead does not come back by registering", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(newTask({ queue }))
      yield* leasePasses()
      yield* recover
      yield* Effect.exit(register(worker))
      assert.isFalse((yield* heartbeat(worker)).alive)
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
    }))

  it.effect("what a lost worker held runs again: the loss is counted and recorded, no attempt is", () =>
    Effect.gen(function*() {
      yield* cleanUp
      const queue = uniqueQueue()
      const [lost, alive] = [yield* startWorker, yield* startWorker]
      yield* send(...newTasks(2, { queue }))
      const [held, retried] = yield* claim(lost, want(queue))
      yield* finish(lost, ended(retried!, retry(0)))
      const [again] = yield* claim(lost, want(queue))
      const kept = yield* sendAndClaim(alive)
      yield* leasePasses(alive)
      assert.deepStrictEqual(yield* recover, { workers: 1, released: 2, failed: 0 })
      assert.deepStrictEqual(yield* recover, { workers: 0, released: 0, failed: 0 })

      const record = yield* find(held!.id)
      assert.strictEqual(record.state, "PENDING")
      assert.strictEqual(record.attempts, 0)
      assert.strictEqual(record.losses, 1)
      assert.isUndefined(record.worker)
      assert.deepStrictEqual(timeless(record), [{ attempt: 1, outcome: "Lost", worker: lost, error: undefined }])
      assert.isNull(record.history[0]!.startedAt)
      assert.deepStrictEqual((yield* find(retried!.id)).history.map(({ attempt, outcome }) => [attempt, outcome]), [
        [1, "Error"],
        [2, "Lost"]
      ])
      assert.strictEqual((yield* find(kept.id)).worker, alive)

      const claimed = yield* claim(alive, want(queue))
      assert.sameMembers(ids(claimed), ids([held!, again!]))
      for (const task of claimed) {
        assert.strictEqual(task.losses, 1)
        assert.strictEqual(task.attempt, task.id === held!.id ? 1 : 2)
        assert.isAbove(task.fence, task.id === held!.id ? held!.fence : again!.fence)
      }
    }))

  it.effect("a task ends FAILED with the loss that was one too many", () =>
    Effect.gen(function*() {
      yield* cleanUp
      const queue = uniqueQueue()
      const task = newTask({ queue, maxLosses: 3 })
      yield* send(task)
      const waiting = yield* Effect.forkChild(outcome(task.id), { startImmediately: true })
      const workers = [yield* lose(queue), yield* lose(queue)]
      assert.isUndefined(waiting.pollUnsafe())
      const last = yield* startWorker
      yield* claimOne(last, queue)
      yield* leasePasses()
      assert.deepStrictEqual(yield* recover, { workers: 1, released: 0, failed: 1 })

      const message = "lost 3 workers while they held the task"
      const expected = { _tag: "Failed", failure: { kind: "Lost", value: JSON.stringify(message) } } as const
      // Told, not found by a poll.
      assert.deepStrictEqual(yield* Effect.timeout(Fiber.join(waiting), "2 seconds"), expected)
      assert.deepStrictEqual(yield* outcome(task.id), expected)
      const record = yield* find(task.id)
      assert.strictEqual(record.state, "FAILED")
      assert.strictEqual(record.attempts, 0)
      assert.strictEqual(record.losses, 3)
      assert.strictEqual(record.worker, last)
      assert.deepStrictEqual(record.outcome, expected)
      assert.deepStrictEqual(timeless(record), [
        { attempt: 1, outcome: "Lost", worker: workers[0]!, error: undefined },
        { attempt: 1, outcome: "Lost", worker: workers[1]!, error: undefined },
        { attempt: 1, outcome: "Lost", worker: last, error: message }
      ])
      assert.isTrue(record.history.every(({ startedAt }) => startedAt === null))
    }))

  it.effect("a task that must not run again ends with its first loss", () =>
    Effect.gen(function*() {
      yield* cleanUp
      const queue = uniqueQueue()
      const [fails, runsAgain] = [newTask({ queue, maxLosses: 1 }), newTask({ queue, maxLosses: 2 })]
      yield* send(fails, runsAgain)
      yield* claim(yield* startWorker, want(queue))
      yield* leasePasses()
      assert.deepStrictEqual(yield* recover, { workers: 1, released: 1, failed: 1 })
      assert.strictEqual((yield* find(fails.id)).state, "FAILED")
      assert.strictEqual((yield* find(runsAgain.id)).state, "PENDING")
    }))

  it.effect("a finish counts after the lease has passed, as long as nobody has noticed, and no longer", () =>
    Effect.gen(function*() {
      yield* cleanUp
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(...newTasks(2, { queue }))
      const [inTime, tooLate] = yield* claim(worker, want(queue))
      yield* leasePasses()
      assert.strictEqual((yield* finish(worker, ended(inTime!, completed()))).accepted.size, 1)
      yield* recover
      const before = yield* find(tooLate!.id)
      assert.strictEqual((yield* finish(worker, ended(tooLate!, completed()))).accepted.size, 0)
      yield* Broker.use((broker) => broker.release(worker, [tooLate!]))
      assert.deepStrictEqual(yield* find(tooLate!.id), before)
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
    }))

  it.effect("what a worker still holds when it deregisters is recovered", () =>
    Effect.gen(function*() {
      yield* cleanUp
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker, { queue })
      yield* Broker.use((broker) => broker.deregister(worker))
      assert.deepStrictEqual(yield* recover, { workers: 0, released: 1, failed: 0 })
      assert.strictEqual((yield* claimOne(yield* startWorker, queue)).id, hold.id)
    }))

  it.effect("recoveries at the same time share the work and count everything once", () =>
    Effect.gen(function*() {
      yield* cleanUp
      const queue = uniqueQueue()
      const workers = yield* Effect.forEach([1, 2, 3], () => startWorker)
      yield* send(...newTasks(2400, { queue }), ...newTasks(300, { queue, maxLosses: 1, priority: 1 }))
      for (const worker of workers) yield* claim(worker, want(queue, { slots: 900 }))
      yield* leasePasses()
      const recovered = yield* Effect.forEach([1, 2, 3, 4], () => recover, { concurrency: "unbounded" })
      const sum = (field: "workers" | "released" | "failed") =>
        recovered.reduce((total, counts) => total + counts[field], 0)
      assert.deepStrictEqual([sum("workers"), sum("released"), sum("failed")], [3, 2400, 300])
      const again = yield* claim(yield* startWorker, want(queue, { slots: 3000 }))
      assert.lengthOf(again, 2400)
      assert.isTrue(again.every(({ losses }) => losses === 1))
    }))

  it.effect("a task that was lost is claimed for a slot, or alone of its kind ahead", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const lostTasks = newTasks(3, { queue })
      yield* send(...lostTasks)
      yield* claim(yield* startWorker, want(queue))
      yield* leasePasses()
      yield* recover
      const fresh = newTasks(3, { queue })
      yield* send(...fresh)
      const worker = yield* startWorker
      for (const [i, wants] of [{ slots: 0, ahead: 2 }, { slots: 1, ahead: 1 }, { slots: 3, ahead: 3 }].entries()) {
        assert.deepStrictEqual(ids(yield* claim(worker, want(queue, wants))), [lostTasks[i]!.id, fresh[i]!.id])
      }
    }))

  it.effect("of tasks that were lost, the most urgent is claimed first, whatever its name", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const names = ["a", "b", "c"]
      const lostTasks = [5, 3, 4, 1, 6, 2].map((priority, i) => newTask({ queue, name: names[i % 3]!, priority }))
      yield* send(...lostTasks)
      yield* claim(yield* startWorker, want(queue, { names }))
      yield* leasePasses()
      yield* recover
      const worker = yield* startWorker
      const claimed: Array<number> = []
      for (const wants of [{ slots: 1 }, { slots: 0, ahead: 1 }, { slots: 2 }, { slots: 1, ahead: 1 }]) {
        for (const { priority } of yield* claim(worker, want(queue, { names, ...wants }))) claimed.push(priority)
      }
      assert.deepStrictEqual(claimed, [1, 2, 3, 4, 5])
    }))

  it.effect("a task that was lost is among those that can start at once, whatever else is claimed with it", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(...newTasks(2, { queue }))
      yield* claim(yield* startWorker, want(queue))
      yield* leasePasses(worker)
      yield* recover
      yield* send(...newTasks(20, { queue, priority: 1 }))
      for (const slots of [2, 3, 4, 2, 2, 2]) {
        const claimed = yield* claim(worker, want(queue, { slots, ahead: 1 }))
        for (const [place, task] of claimed.entries()) assert.isTrue(task.losses === 0 || place < slots)
      }
    }))
}
