/** The contract of filters: which tasks are meant when they are cancelled, listed or sent again. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker, type Filter } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  assertRefused,
  cancel,
  claim,
  find,
  ids,
  newTask,
  send,
  startWorker,
  unique,
  uniqueQueue,
  want
} from "./steps.ts"

const list = (filter: Filter) => Effect.map(Broker.use((broker) => broker.list(filter, {})), ids)

/** Cancels, and gives all that it concerned. */
const concerned = (filter: Filter) =>
  Effect.map(cancel(filter), ({ cancelled, requested }) => [...cancelled, ...requested].toSorted())

export const filtering = (it: It) => {
  it.effect("a filter means the tasks that fit everything that it gives", () =>
    Effect.gen(function*() {
      const [queue, elsewhere] = [uniqueQueue(), uniqueQueue()]
      const [name, key] = [unique("name"), unique("key")]
      const [one, two, three, four] = [
        newTask({ queue, name, concurrencyKey: key, tags: { order: "1", kind: "a" } }),
        newTask({ queue, name, tags: { order: "1" } }),
        newTask({ queue, concurrencyKey: key, tags: { order: "1", kind: "b" } }),
        newTask({ queue: elsewhere, name, concurrencyKey: key })
      ]
      yield* send(one, two, three, four)
      const cases: ReadonlyArray<readonly [Filter, ReadonlyArray<{ readonly id: string }>]> = [
        [{ queue }, [one, two, three]],
        [{ name }, [one, two, four]],
        [{ concurrencyKey: key }, [one, three, four]],
        [{ queue, tags: { order: "1" } }, [one, two, three]],
        [{ queue, tags: { order: "1", kind: "a" } }, [one]],
        [{ queue, tags: { order: "2" } }, []],
        [{ queue, tags: { other: "1" } }, []],
        [{ queue, tags: {} }, [one, two, three]],
        [{ queue, name }, [one, two]],
        [{ queue, concurrencyKey: key }, [one, three]],
        [{ name, concurrencyKey: key }, [one, four]],
        [{ ids: ids([one, four]) }, [one, four]],
        [{ ids: ids([one, four]), queue }, [one]],
        [{ ids: [one.id.toUpperCase()] }, [one]],
        [{ ids: [], queue }, []]
      ]
      for (const [filter, expected] of cases) {
        assert.sameMembers(yield* list(filter), ids(expected), JSON.stringify(filter))
      }
      assert.deepStrictEqual(yield* concerned({ name, concurrencyKey: key, queue }), [one.id])
      assert.deepStrictEqual(yield* concerned({ name, queue }), [two.id])
      assert.deepStrictEqual(yield* concerned({ queue }), [three.id])
      assert.deepStrictEqual(yield* concerned({ name }), [four.id])
    }))

  it.effect("tasks are cancelled by their tags, waiting and claimed ones alike", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const order = unique("order")
      const tasks = [
        newTask({ queue, priority: 1, tags: { order, step: "1" } }),
        newTask({ queue, tags: { order, step: "2" } }),
        newTask({ queue, tags: { order: unique("order") } })
      ]
      yield* send(...tasks)
      yield* claim(yield* startWorker, want(queue, { slots: 1 }))
      assert.deepStrictEqual(yield* cancel({ tags: { order } }), {
        cancelled: [tasks[1]!.id],
        requested: [tasks[0]!.id]
      })
      assert.strictEqual((yield* find(tasks[2]!.id)).state, "PENDING")
    }))

  it.effect("tasks are cancelled by their concurrency key", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const concurrencyKey = unique("tenant")
      const [one, two, other] = [
        newTask({ queue, concurrencyKey }),
        newTask({ queue, concurrencyKey, due: { after: 60_000 } }),
        newTask({ queue, concurrencyKey: unique("tenant") })
      ]
      yield* send(one, two, other)
      assert.deepStrictEqual(yield* concerned({ concurrencyKey }), ids([one, two]).toSorted())
      assert.strictEqual((yield* find(other.id)).state, "PENDING")
    }))

  it.effect("an idempotency key together with a name means the task that was sent with it, while it is kept", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const [name, key] = [unique("name"), unique("key")]
      const idempotency = { key, window: 60_000 }
      const [one, other, unkeyed] = [
        newTask({ queue, name, idempotency }),
        newTask({ queue, idempotency: { key, window: 600_000 }, name: unique("name") }),
        newTask({ queue, name })
      ]
      yield* send(one, other, unkeyed)
      yield* send(newTask({ queue, name, idempotency }))
      assert.deepStrictEqual(yield* list({ name, idempotencyKey: key }), [one.id])
      assert.deepStrictEqual(yield* list({ name, idempotencyKey: key, queue: uniqueQueue() }), [])
      assert.deepStrictEqual(yield* list({ name, idempotencyKey: unique("key") }), [])
      assert.deepStrictEqual(yield* concerned({ name, idempotencyKey: key }), [one.id])
      // Ended, it is meant still.
      assert.deepStrictEqual(yield* list({ name, idempotencyKey: key }), [one.id])
      yield* advance(60_001)
      assert.deepStrictEqual(yield* list({ name, idempotencyKey: key }), [])
      assert.deepStrictEqual(yield* concerned({ name: other.name, idempotencyKey: key }), [other.id])
      assert.strictEqual((yield* find(unkeyed.id)).state, "PENDING")
    }))

  it.effect("an idempotency key without a name is refused", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      const filter = { idempotencyKey: unique("key") }
      assertRefused(yield* Effect.flip(broker.list(filter, {})))
      assertRefused(yield* Effect.flip(broker.cancel(filter)))
      assertRefused(yield* Effect.flip(broker.resend(filter)))
    }))

  it.effect("tags come back as they were given", () =>
    Effect.gen(function*() {
      const tags = { "": "", "a.b": "c'd", "ключ 🐎": "\" \\ %_", __proto__x: "1" }
      const task = newTask({ queue: uniqueQueue(), tags })
      yield* send(task)
      assert.deepStrictEqual((yield* find(task.id)).tags, tags)
      for (const [key, value] of Object.entries(tags)) {
        assert.deepStrictEqual(yield* list({ queue: task.queue, tags: { [key]: value } }), [task.id])
        assert.deepStrictEqual(yield* list({ queue: task.queue, tags: { [key]: `${value} ` } }), [])
      }
    }))
}
