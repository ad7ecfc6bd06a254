/** The contract of `wakeUps`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  claimOne,
  ended,
  finish,
  isFor,
  lease,
  newTask,
  newTasks,
  promote,
  recover,
  retry,
  send,
  sendAndClaim,
  startWorker,
  subscribe,
  uniqueQueue,
  wakeUpThat
} from "./steps.ts"

export const waking = (it: It) => {
  it.effect("a send wakes every subscriber, with the queue and the most urgent priority", () =>
    Effect.gen(function*() {
      const [one, two] = [uniqueQueue(), uniqueQueue()]
      const subscribers = [yield* subscribe, yield* subscribe]
      yield* send(newTask({ queue: one, priority: 9 }), newTask({ queue: one, priority: 4 }), newTask({ queue: two }))
      for (const subscriber of subscribers) {
        const heard = new Map<string, number>()
        yield* wakeUpThat(subscriber, (wakeUp) => {
          if (wakeUp._tag === "Sent" && wakeUp.dueIn <= 0) heard.set(wakeUp.queue, wakeUp.priority)
          return heard.has(one) && heard.has(two)
        })
        assert.deepStrictEqual([heard.get(one), heard.get(two)], [4, 100])
      }
    }))

  it.effect("the wake-up of a delayed task tells when it is due: the earliest of its send", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const wakeUps = yield* subscribe
      yield* send(newTask({ queue, due: { after: 90_000 } }), newTask({ queue, due: { after: 60_000 } }))
      const wakeUp = yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent" && wakeUp.queue === queue)
      assert.isTrue(wakeUp._tag === "Sent" && wakeUp.dueIn <= 60_000 && wakeUp.dueIn > 40_000)
      yield* send(newTask({ queue, due: { after: 90_000 } }), newTask({ queue }))
      yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent" && wakeUp.queue === queue && wakeUp.dueIn <= 0)
    }))

  it.effect("a task that waits again at once wakes subscribers: retried, released, recovered", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const first = yield* sendAndClaim(worker, { queue })
      const wakeUps = yield* subscribe
      yield* finish(worker, ended(first, retry(0)))
      yield* wakeUpThat(wakeUps, isFor(queue))
      const second = yield* claimOne(worker, queue)
      yield* Broker.use((broker) => broker.release(worker, [second]))
      yield* wakeUpThat(wakeUps, isFor(queue))
      yield* claimOne(worker, queue)
      yield* advance(lease + 1)
      yield* recover
      yield* wakeUpThat(wakeUps, isFor(queue))
    }))

  it.effect("whoever claims what a wake-up tells of finds it", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const wakeUps = yield* subscribe
      let dueIn = 0
      for (const task of [...newTasks(3, { queue }), newTask({ queue, due: { after: 5000 } })]) {
        yield* send(task)
        const wakeUp = yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent" && wakeUp.queue === queue)
        if (wakeUp._tag === "Sent" && wakeUp.dueIn > 0) {
          dueIn = wakeUp.dueIn
          yield* advance(Math.ceil(dueIn))
          yield* promote(queue)
        }
        assert.strictEqual((yield* claimOne(worker, queue)).id, task.id)
      }
      assert.isAbove(dueIn, 0)
    }))
}
