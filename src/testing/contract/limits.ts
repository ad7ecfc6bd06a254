/** The contract of limits on how many tasks of a queue, or of a key, are claimed at once. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  cancel,
  claim,
  claims,
  completed,
  configure,
  ended,
  finish,
  isFor,
  leasePasses,
  newTask,
  newTasks,
  recover,
  release,
  send,
  startWorker,
  subscribe,
  uniqueQueue,
  wakeUpThat,
  want
} from "./steps.ts"

export const limits = (it: It) => {
  it.effect("no more tasks of a queue are claimed at once than its limit, over all workers", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const [one, two] = [yield* startWorker, yield* startWorker]
      yield* configure(queue, { limits: { concurrency: 3 } })
      yield* send(...newTasks(6, { queue }))
      const first = yield* claim(one, want(queue, { slots: 2 }))
      assert.lengthOf(first, 2)
      assert.lengthOf(yield* claim(two, want(queue)), 1)
      assert.deepStrictEqual(yield* claim(one, want(queue)), [])
      yield* finish(one, ended(first[0]!, completed()))
      yield* release(one, first[1]!)
      assert.lengthOf(yield* claim(two, want(queue)), 2)
      assert.deepStrictEqual(yield* claim(two, want(queue)), [])
    }))

  it.effect("a limit counts what was claimed before it was set, and goes when it is taken away", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(...newTasks(6, { queue }))
      yield* claim(worker, want(queue, { slots: 3 }))
      yield* configure(queue, { limits: { concurrency: 2 } })
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      yield* configure(queue, { limits: {} })
      assert.lengthOf(yield* claim(worker, want(queue)), 3)
    }))

  it.effect("a queue with limits is never claimed ahead", () =>
    Effect.gen(function*() {
      const all = [
        { concurrency: 100 },
        { rate: { limit: 100, per: 1000 } },
        { perKey: { concurrency: 100 } },
        { perKey: { rate: { limit: 100, per: 1000 } } }
      ]
      const worker = yield* startWorker
      for (const limits of all) {
        const queue = uniqueQueue()
        yield* configure(queue, { limits })
        yield* send(...newTasks(5, { queue, concurrencyKey: "a" }))
        assert.deepStrictEqual(yield* claim(worker, want(queue, { slots: 0, ahead: 5 })), [])
        assert.lengthOf(yield* claim(worker, want(queue, { slots: 2, ahead: 5 })), 2)
      }
    }))

  it.effect("a claim of a limited queue that filled its slots says to look again at once", () =>
    Effect.gen(function*() {
      const [limited, free] = [uniqueQueue(), uniqueQueue()]
      yield* configure(limited, { limits: { concurrency: 100 } })
      yield* send(...newTasks(5, { queue: limited }), ...newTasks(5, { queue: free }))
      const worker = yield* startWorker
      const { again } = yield* claims(worker, want(limited, { slots: 2 }), want(free, { slots: 2 }))
      assert.strictEqual(again.get(limited), 0)
      const rest = yield* claims(worker, want(limited, { slots: 10 }))
      assert.lengthOf(rest.tasks, 3)
      assert.isFalse(rest.again.has(limited))
    }))

  it.effect("a claim that was cut short by the tasks that are claimed is not repeated for nothing", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* configure(queue, { limits: { concurrency: 2 } })
      yield* send(...newTasks(5, { queue }))
      const { again, tasks } = yield* claims(yield* startWorker, want(queue, { slots: 5 }))
      assert.lengthOf(tasks, 2)
      assert.isFalse(again.has(queue))
    }))

  it.effect("a limited queue gives the most urgent first, whatever its name", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      for (const concurrencyKey of [undefined, "ada"]) {
        const queue = uniqueQueue()
        yield* configure(queue, { limits: { concurrency: 1 } })
        yield* send(
          newTask({ queue, name: "a", priority: 50, concurrencyKey }),
          newTask({ queue, name: "b", priority: 1, concurrencyKey }),
          newTask({ queue, name: "b", priority: 70, concurrencyKey }),
          newTask({ queue, name: "a", priority: 60, concurrencyKey })
        )
        const order: Array<number> = []
        for (let round = 0; round < 4; round++) {
          const [hold] = yield* claim(worker, want(queue, { names: ["a", "b"] }))
          order.push(hold!.priority)
          yield* finish(worker, ended(hold!, completed()))
        }
        assert.deepStrictEqual(order, [1, 50, 60, 70])
      }
    }))

  it.effect("a claim that as many tasks as may run have cut short says so", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      for (const limits of [{ concurrency: 2 }, { perKey: { concurrency: 2 } }]) {
        const queue = uniqueQueue()
        yield* configure(queue, { limits })
        yield* send(...newTasks(4, { queue, concurrencyKey: "ada" }))
        const some = yield* claims(worker, want(queue, { slots: 1 }))
        assert.isFalse(some.full.has(queue))
        for (let round = 0; round < 2; round++) {
          assert.isTrue((yield* claims(worker, want(queue, { slots: 5 }))).full.has(queue))
        }
        const broker = yield* Broker
        const { claimed } = yield* broker.finish(worker, [ended(some.tasks[0]!, completed())], [
          want(queue, { slots: 5 })
        ])
        const last = claimed.tasks.length > 0 ? claimed : yield* claims(worker, want(queue, { slots: 5 }))
        assert.lengthOf(last.tasks, 1)
      }
      const queue = uniqueQueue()
      yield* configure(queue, { limits: { concurrency: 5, rate: { limit: 1, per: 3_600_000 } } })
      yield* send(...newTasks(2, { queue }))
      const paced = yield* claims(worker, want(queue, { slots: 2 }))
      assert.lengthOf(paced.tasks, 1)
      assert.isFalse(paced.full.has(queue))
    }))

  const caps = {
    "the queue": { concurrency: 1 },
    "the key": { perKey: { concurrency: 1 } }
  }
  for (const [what, limits] of Object.entries(caps)) {
    it.effect(`workers are told when a claim ends that has kept others of ${what} waiting`, () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        yield* configure(queue, { limits })
        yield* send(...newTasks(5, { queue, concurrencyKey: "a" }))
        const holdOf = Effect.map(claim(worker, want(queue)), (claimed) => {
          assert.lengthOf(claimed, 1)
          return claimed[0]!
        })
        const [first, wakeUps] = [yield* holdOf, yield* subscribe]
        yield* finish(worker, ended(first, completed()))
        yield* wakeUpThat(wakeUps, isFor(queue))
        const second = yield* holdOf
        yield* release(worker, second)
        yield* wakeUpThat(wakeUps, isFor(queue))
        const third = yield* holdOf
        yield* cancel({ ids: [third.id] })
        yield* finish(worker, ended(third, { _tag: "Cancelled" }))
        yield* wakeUpThat(wakeUps, isFor(queue))
        yield* holdOf
        yield* leasePasses()
        yield* recover
        yield* wakeUpThat(wakeUps, isFor(queue))
      }))
  }

  it.effect("a key has a limit of its own; tasks without a key have none", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* configure(queue, { limits: { perKey: { concurrency: 2 } } })
      for (const concurrencyKey of ["a", "b", undefined]) yield* send(...newTasks(5, { queue, concurrencyKey }))
      const claimed = yield* claim(worker, want(queue))
      const of = (key: string | undefined) => claimed.filter(({ concurrencyKey }) => concurrencyKey === key)
      assert.deepStrictEqual([of("a").length, of("b").length, of(undefined).length], [2, 2, 5])
      yield* finish(worker, ended(of("a")[0]!, completed()))
      const next = yield* claim(worker, want(queue))
      assert.deepStrictEqual(next.map(({ concurrencyKey }) => concurrencyKey), ["a"])
    }))

  it.effect("the limit of a key holds in each queue by itself", () =>
    Effect.gen(function*() {
      const queues = [uniqueQueue(), uniqueQueue()]
      const worker = yield* startWorker
      for (const queue of queues) {
        yield* configure(queue, { limits: { perKey: { concurrency: 1 } } })
        yield* send(...newTasks(2, { queue, concurrencyKey: "a" }))
      }
      for (const queue of queues) assert.lengthOf(yield* claim(worker, want(queue)), 1)
    }))

  it.effect("the limits of the queue and of its keys hold together", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* configure(queue, { limits: { concurrency: 3, perKey: { concurrency: 2 } } })
      for (const concurrencyKey of ["a", "b", "c"]) yield* send(...newTasks(3, { queue, concurrencyKey }))
      const claimed = yield* claim(yield* startWorker, want(queue))
      assert.sameMembers(claimed.map(({ concurrencyKey }) => concurrencyKey!), ["a", "b", "c"])
    }))

  it.effect("claims from many fibers at once never exceed a limit, and find everything", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      const workers = [yield* startWorker, yield* startWorker]
      yield* configure(queue, { limits: { concurrency: 5 } })
      yield* send(...newTasks(200, { queue }))
      let [claimed, most, done] = [0, 0, 0]
      yield* Effect.forEach(
        Array.from({ length: 8 }, (_, i) => workers[i % 2]!),
        (worker) =>
          Effect.gen(function*() {
            while (done < 200) {
              const { tasks } = yield* broker.claim(worker, [want(queue, { slots: 3, ahead: 3 })])
              claimed += tasks.length
              most = Math.max(most, claimed)
              yield* Effect.yieldNow
              // Before the broker hears of it: whoever claims meanwhile may get that place.
              claimed -= tasks.length
              done += tasks.length
              yield* broker.finish(worker, tasks.map((task) => ended(task, completed())), [])
            }
          }),
        { concurrency: "unbounded", discard: true }
      )
      assert.isAtMost(most, 5)
      assert.strictEqual(done, 200)
    }), 60_000)

  it.effect("a finish that claims does not exceed a limit, and leaves nothing unseen", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      const worker = yield* startWorker
      yield* configure(queue, { limits: { concurrency: 1 } })
      yield* send(...newTasks(3, { queue }))
      const [hold] = yield* claim(worker, want(queue))
      const wakeUps = yield* subscribe
      const { claimed } = yield* broker.finish(worker, [ended(hold!, completed())], [want(queue, { slots: 5 })])
      assert.isAtMost(claimed.tasks.length, 1)
      if (claimed.tasks.length === 0 && !claimed.again.has(queue)) yield* wakeUpThat(wakeUps, isFor(queue))
      const rest = yield* claim(worker, want(queue))
      assert.strictEqual(claimed.tasks.length + rest.length, 1)
    }))

  it.effect("a task that was cancelled while it waited takes no place", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* configure(queue, { limits: { concurrency: 1 } })
      const [gone, stays] = newTasks(2, { queue })
      yield* send(gone!, stays!)
      yield* cancel({ ids: [gone!.id] })
      yield* advance(1)
      assert.deepStrictEqual((yield* claim(yield* startWorker, want(queue))).map(({ id }) => id), [stays!.id])
    }))
}
