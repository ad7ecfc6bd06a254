/** The contract of pausing a queue, and of its settings. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  claim,
  claimOne,
  claims,
  completed,
  configure,
  ended,
  finish,
  isFor,
  newTask,
  newTasks,
  release,
  send,
  startWorker,
  subscribe,
  uniqueQueue,
  wakeUpThat,
  want
} from "./steps.ts"

const settings = (queue: string) => Broker.use((broker) => broker.queue(queue))

export const pausing = (it: It) => {
  it.effect("a queue of which nothing was said is not paused and has no limits", () =>
    Effect.gen(function*() {
      const { limits, paused } = yield* settings(uniqueQueue())
      assert.isFalse(paused)
      assert.isUndefined(limits.concurrency)
      assert.isUndefined(limits.rate)
      assert.isUndefined(limits.perKey)
    }))

  it.effect("what is not given stays as it was set", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* configure(queue, { limits: { concurrency: 3, perKey: { rate: { limit: 2, per: 1000, burst: 4 } } } })
      yield* configure(queue, { paused: true })
      yield* configure(queue, {})
      const paused = yield* settings(queue)
      assert.isTrue(paused.paused)
      assert.strictEqual(paused.limits.concurrency, 3)
      assert.isUndefined(paused.limits.rate)
      assert.isUndefined(paused.limits.perKey?.concurrency)
      assert.deepStrictEqual(paused.limits.perKey?.rate, { limit: 2, per: 1000, burst: 4 })
      yield* configure(queue, { limits: { rate: { limit: 1, per: 60_000 } } })
      const limited = yield* settings(queue)
      assert.isTrue(limited.paused)
      assert.isUndefined(limited.limits.concurrency)
      assert.isUndefined(limited.limits.perKey?.rate)
      assert.strictEqual(limited.limits.rate?.limit, 1)
      assert.strictEqual(limited.limits.rate?.per, 60_000)
    }))

  it.effect("a paused queue gives nothing, and the others go on", () =>
    Effect.gen(function*() {
      const [paused, other] = [uniqueQueue(), uniqueQueue()]
      const worker = yield* startWorker
      yield* configure(paused, { paused: true })
      yield* send(newTask({ queue: paused }), newTask({ queue: other }))
      const { again, tasks } = yield* claims(worker, want(paused), want(other))
      assert.deepStrictEqual(tasks.map(({ queue }) => queue), [other])
      assert.isFalse(again.has(paused))
      yield* configure(paused, { paused: false })
      yield* claimOne(worker, paused)
    }))

  it.effect("neither does a finish that claims find anything in a paused queue", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(...newTasks(2, { queue }))
      const [hold] = yield* claim(worker, want(queue, { slots: 1 }))
      yield* configure(queue, { paused: true })
      const { accepted, claimed } = yield* Broker.use((broker) =>
        broker.finish(worker, [ended(hold!, completed())], [want(queue)])
      )
      assert.strictEqual(accepted.size, 1)
      assert.deepStrictEqual(claimed.tasks, [])
    }))

  it.effect("what is claimed when its queue is paused is finished or handed back as ever", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(...newTasks(2, { queue }))
      const [runs, ready] = yield* claim(worker, want(queue))
      yield* configure(queue, { paused: true })
      assert.strictEqual((yield* finish(worker, ended(runs!, completed()))).accepted.size, 1)
      yield* release(worker, ready!)
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      yield* configure(queue, { paused: false })
      assert.strictEqual((yield* claimOne(worker, queue)).id, ready!.id)
    }))

  it.effect("workers are told of a pause, and told to look again after it", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* send(newTask({ queue }))
      const wakeUps = yield* subscribe
      yield* configure(queue, { paused: true })
      yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Paused" && wakeUp.queue === queue)
      yield* configure(queue, { paused: false })
      yield* wakeUpThat(wakeUps, isFor(queue))
    }))

  it.effect("workers are told to look again when limits have changed", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* configure(queue, { limits: { concurrency: 1 } })
      yield* send(...newTasks(2, { queue }))
      const worker = yield* startWorker
      yield* claimOne(worker, queue)
      const wakeUps = yield* subscribe
      yield* configure(queue, { limits: { concurrency: 2 } })
      yield* wakeUpThat(wakeUps, isFor(queue))
      yield* claimOne(worker, queue)
    }))
}
