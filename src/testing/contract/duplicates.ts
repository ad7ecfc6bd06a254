/** The contract of sending again: the same id, the same idempotency key. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { Broker, type BrokerError, type IdTaken, type NewTask } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  cancel,
  claim,
  claimOne,
  completed,
  ended,
  find,
  finish,
  ids,
  newTask,
  send,
  startWorker,
  subscribe,
  unique,
  uniqueQueue,
  wakeUpThat,
  want
} from "./steps.ts"

const window = 60_000

const withKey = (key: string, options: Partial<NewTask> = {}) => newTask({ idempotency: { key, window }, ...options })

const assertTaken = (error: BrokerError | IdTaken, id: string) =>
  assert.isTrue(error._tag === "IdTaken" && error.id === id, error.message)

export const duplicates = (it: It) => {
  it.effect("a send says of each task, in their order, under which id it is stored and whether it was before", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const key = unique("key")
      const [one, two, three] = [withKey(key, { queue }), newTask({ queue }), newTask({ queue })]
      assert.deepStrictEqual(yield* send(one, two), [
        { id: one.id, duplicate: false },
        { id: two.id, duplicate: false }
      ])
      assert.deepStrictEqual(yield* send({ ...two, repeated: true }, three, withKey(key, { queue })), [
        { id: two.id, duplicate: true },
        { id: three.id, duplicate: false },
        { id: one.id, duplicate: true }
      ])
      assert.deepStrictEqual(ids(yield* claim(yield* startWorker, want(queue))), ids([one, two, three]))
    }))

  it.effect("a first send may say that it is repeated", () =>
    Effect.gen(function*() {
      const task = newTask({ queue: uniqueQueue(), repeated: true })
      assert.deepStrictEqual(yield* send(task), [{ id: task.id, duplicate: false }])
      assert.strictEqual((yield* claimOne(yield* startWorker, task.queue)).id, task.id)
    }))

  it.effect("a repeated send stores nothing and changes nothing, whatever has become of the task", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const task = newTask({ queue, payload: `{"a":1}`, repeated: true })
      yield* send(task)
      const repeat = Effect.gen(function*() {
        const before = yield* find(task.id)
        assert.deepStrictEqual(yield* send({ ...task, priority: 1, due: { after: 60_000 } }), [
          { id: task.id, duplicate: true }
        ])
        assert.deepStrictEqual(yield* find(task.id), before)
      })
      yield* repeat
      const hold = yield* claimOne(worker, queue)
      yield* repeat
      yield* finish(worker, ended(hold, completed()))
      yield* repeat
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
    }))

  it.effect("the id of another task is refused, and with it the whole send, whatever has become of that task", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      const worker = yield* startWorker
      const task = newTask({ queue, payload: `{"a":1}` })
      yield* send(task)
      const others = [
        { ...task, payload: `{"a":2}`, repeated: true },
        { ...task, name: "other", repeated: true }
      ]
      const refuse = Effect.gen(function*() {
        for (const other of others) {
          const innocent = newTask({ queue })
          assertTaken(yield* Effect.flip(send(innocent, other)), task.id)
          assert.isTrue(Option.isNone(yield* broker.find(innocent.id)))
        }
      })
      yield* refuse
      const hold = yield* claimOne(worker, queue)
      yield* refuse
      yield* finish(worker, ended(hold, completed()))
      yield* refuse
      assert.strictEqual((yield* find(task.id)).payload, `{"a":1}`)
    }))

  it.effect("of two tasks that are sent at the same time under one id, one is stored and the other refused", () =>
    Effect.gen(function*() {
      const task = newTask({ queue: uniqueQueue(), payload: `{"a":1}`, repeated: true })
      const sent = yield* Effect.forEach(
        [task, { ...task, payload: `{"a":2}` }],
        (one) => Effect.result(send(one)),
        { concurrency: "unbounded" }
      )
      const refused = sent.filter(Result.isFailure)
      assert.lengthOf(refused, 1)
      assertTaken(refused[0]!.failure, task.id)
      assert.strictEqual((yield* find(task.id)).payload, Result.isSuccess(sent[0]!) ? `{"a":1}` : `{"a":2}`)
    }))

  it.effect("repeats of one send at the same time store one task", () =>
    Effect.gen(function*() {
      const task = newTask({ queue: uniqueQueue(), repeated: true })
      const sent = yield* Effect.forEach(Array.from({ length: 20 }), () => send(task), { concurrency: "unbounded" })
      assert.isTrue(sent.every(([first]) => first!.id === task.id))
      assert.lengthOf(sent.filter(([first]) => !first!.duplicate), 1)
      yield* claimOne(yield* startWorker, task.queue)
    }))

  it.effect("inside its window a key stands for the first task, also after that one has ended", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const key = unique("key")
      const first = withKey(key, { queue, payload: "1" })
      yield* send(first)
      const again = send(withKey(key, { queue, payload: "2" }))
      assert.deepStrictEqual(yield* again, [{ id: first.id, duplicate: true }])
      const hold = yield* claimOne(worker, queue)
      assert.deepStrictEqual(yield* again, [{ id: first.id, duplicate: true }])
      yield* finish(worker, ended(hold, completed()))
      yield* advance(window - 10_000)
      assert.deepStrictEqual(yield* again, [{ id: first.id, duplicate: true }])
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
    }))

  it.effect("after its window a key stands for nothing, even while the task still waits", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const key = unique("key")
      const [first, second, third] = [withKey(key, { queue }), withKey(key, { queue }), withKey(key, { queue })]
      yield* send(first)
      yield* advance(window + 1)
      assert.deepStrictEqual(yield* send(second), [{ id: second.id, duplicate: false }])
      assert.deepStrictEqual(yield* send(third), [{ id: second.id, duplicate: true }])
      assert.deepStrictEqual(ids(yield* claim(yield* startWorker, want(queue))), ids([first, second]))
    }))

  it.effect("each name has idempotency keys of its own", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const key = unique("key")
      for (const name of ["a", "b"]) {
        assert.isFalse((yield* send(withKey(key, { queue, name })))[0]!.duplicate)
        assert.isTrue((yield* send(withKey(key, { queue, name })))[0]!.duplicate)
      }
      assert.lengthOf(yield* claim(yield* startWorker, want(queue, { names: ["a", "b"] })), 2)
    }))

  it.effect("of tasks with one key in one send the first is stored", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const key = unique("key")
      const [one, two, three, other] = [
        withKey(key, { queue }),
        withKey(key, { queue }),
        withKey(key, { queue }),
        newTask({ queue })
      ]
      assert.deepStrictEqual(yield* send(one, two, other, three), [
        { id: one.id, duplicate: false },
        { id: one.id, duplicate: true },
        { id: other.id, duplicate: false },
        { id: one.id, duplicate: true }
      ])
      assert.deepStrictEqual(ids(yield* claim(yield* startWorker, want(queue))), ids([one, other]))
    }))

  it.effect("of senders with one key at the same time one stores its task, and all are told of that one", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const [one, two] = [unique("key"), unique("key")]
      const sent = yield* Effect.forEach(
        Array.from({ length: 30 }, (_, i) => i),
        // Each batch has both keys, not in the same order.
        (i) =>
          Effect.map(
            send(...(i % 2 === 0 ? [one, two] : [two, one]).map((key) => withKey(key, { queue }))),
            (sent) => i % 2 === 0 ? sent : sent.toReversed()
          ),
        { concurrency: "unbounded" }
      )
      for (const place of [0, 1]) {
        assert.strictEqual(new Set(sent.map((both) => both[place]!.id)).size, 1)
        assert.lengthOf(sent.filter((both) => !both[place]!.duplicate), 1)
      }
      assert.sameMembers(ids(yield* claim(yield* startWorker, want(queue))), sent[0]!.map(({ id }) => id))
    }))

  it.effect("a send that is refused leaves its keys free", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const key = unique("key")
      yield* Effect.flip(send(withKey(key, { queue }), newTask({ queue, priority: 0 })))
      assert.isFalse((yield* send(withKey(key, { queue })))[0]!.duplicate)
    }))

  it.effect("a repeat whose first send was a duplicate is told of the same task", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const key = unique("key")
      const [first, second] = [withKey(key, { queue }), withKey(key, { queue })]
      yield* send(first)
      yield* send(second)
      assert.deepStrictEqual(yield* send({ ...second, repeated: true }), [{ id: first.id, duplicate: true }])
      assert.deepStrictEqual(yield* send({ ...first, repeated: true }), [{ id: first.id, duplicate: true }])
    }))

  it.effect("a key goes on standing for a task that was cancelled", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const key = unique("key")
      const first = withKey(key, { queue })
      yield* send(first)
      yield* cancel({ ids: [first.id] })
      assert.deepStrictEqual(yield* send(withKey(key, { queue })), [{ id: first.id, duplicate: true }])
    }))

  it.effect("what stores nothing does not keep the rest of its send from waking workers", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const task = newTask({ queue: uniqueQueue() })
      yield* send(task)
      const wakeUps = yield* subscribe
      yield* send({ ...task, repeated: true }, newTask({ queue }))
      yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent" && wakeUp.queue === queue)
    }))
}
