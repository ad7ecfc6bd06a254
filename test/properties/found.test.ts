/** What random sequences have shown to be wrong once, as short sequences that are always run. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Broker, type Hold } from "../../src/Broker.ts"
import type { It } from "../../src/testing/contract/Harness.ts"
import {
  advance,
  assertRefused,
  cancel,
  claim,
  claimOne,
  completed,
  configure,
  ended,
  find,
  finish,
  leasePasses,
  newTask,
  recover,
  release,
  retry,
  send,
  sendAndClaim,
  startWorker,
  unique,
  uniqueQueue,
  want
} from "../contract/Harness.ts"
import * as memory from "./memory.ts"
import * as standingClock from "./standingClock.ts"

const found = (it: It) => {
  it.effect("a repeated send is told of its own task, though its key stands for another by now", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const idempotency = { key: unique("key"), window: 1000 }
      const [first, second] = [newTask({ queue, idempotency }), newTask({ queue, idempotency })]
      const repeat = send({ ...first, repeated: true })
      yield* send(first)
      const hold = yield* claimOne(worker, queue)
      yield* advance(1001)
      yield* send(second)
      assert.deepStrictEqual(yield* repeat, [{ id: first.id, duplicate: true }])
      yield* finish(worker, ended(hold, completed()))
      assert.deepStrictEqual(yield* repeat, [{ id: first.id, duplicate: true }])
    }))

  it.effect("a send under the id of a task that is there, though its key stands for another by now, has to say so", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const idempotency = { key: unique("key"), window: 1000 }
      const [first, second, third] = [
        newTask({ queue, idempotency }),
        newTask({ queue, idempotency }),
        newTask({ queue })
      ]
      yield* send(first)
      yield* advance(1001)
      yield* send(second)
      assertRefused(yield* Effect.flip(send(first, third)))
      assert.isTrue(Option.isNone(yield* Effect.flatMap(Broker, (broker) => broker.find(third.id))))
    }))

  it.effect("a repeated send does not open the window of its key once more", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const idempotency = { key: unique("key"), window: 1000 }
      const [first, second] = [newTask({ queue, idempotency }), newTask({ queue, idempotency })]
      yield* send(first)
      yield* advance(1001)
      yield* send({ ...first, repeated: true })
      assert.deepStrictEqual(yield* send(second), [{ id: second.id, duplicate: false }])
    }))

  for (const limits of [{}, { concurrency: 100 }]) {
    const which = "concurrency" in limits ? "in a queue with limits" : "in a queue without limits"
    it.effect(`tasks of several names without a key are one key, and do not take the places of others, ${which}`, () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        yield* configure(queue, { limits })
        const wants = (slots: number) => want(queue, { names: ["a", "b"], slots })
        yield* send(newTask({ queue, name: "a", concurrencyKey: "k" }))
        yield* claim(worker, wants(1))
        yield* send(
          newTask({ queue, name: "a", priority: 2 }),
          newTask({ queue, name: "b", priority: 1 }),
          newTask({ queue, name: "a", concurrencyKey: "k" })
        )
        const tasks = yield* claim(worker, wants(2))
        assert.sameMembers(tasks.map(({ concurrencyKey, name }) => `${name} ${concurrencyKey}`), ["b undefined", "a k"])
      }))
  }

  const ends = {
    "is tried again": (worker: string, hold: Hold) => finish(worker, ended(hold, retry(0))),
    "is released": (worker: string, hold: Hold) => release(worker, hold),
    "loses its worker": () => Effect.andThen(leasePasses(), recover)
  }
  for (const [what, end] of Object.entries(ends)) {
    it.effect(`a task that is to be cancelled and ${what} still says whose it was`, () =>
      Effect.gen(function*() {
        const worker = yield* startWorker
        const hold = yield* sendAndClaim(worker)
        yield* cancel({ ids: [hold.id] })
        yield* end(worker, hold)
        const record = yield* find(hold.id)
        assert.deepStrictEqual([record.state, record.worker], ["CANCELLED", worker])
      }))
  }
}

layer(memory.layer)("MemoryBroker", found)
layer(standingClock.layer, { excludeTestServices: true })("PostgresBroker", found)
