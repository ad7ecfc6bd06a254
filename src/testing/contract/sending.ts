/** The contract of `send`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Broker, type Outcome } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  assertRefused,
  claim,
  completed,
  ended,
  failed,
  finish,
  ids,
  newTask,
  newTasks,
  payloads,
  promote,
  send,
  startWorker,
  uniqueQueue,
  want
} from "./steps.ts"

const textOf = (outcome: Outcome | undefined) =>
  outcome === undefined
    ? undefined
    : "value" in outcome
    ? outcome.value
    : "failure" in outcome
    ? outcome.failure.value
    : undefined

export const sending = (it: It) => {
  it.effect("a task that was sent is claimed as its sender described it", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const task = newTask({ queue, name: "résumé", payload: `{"a":[1,"b"]}`, priority: 7 })
      yield* send(task)
      const claimed = yield* claim(worker, want(queue, { names: ["résumé"] }))
      assert.lengthOf(claimed, 1)
      for (const { attempt, fence, id, losses, name, payload, priority, queue, waited } of claimed) {
        assert.isAtLeast(waited, 0)
        assert.deepStrictEqual({ attempt, fence, id, losses, name, payload, priority, queue }, {
          attempt: 1,
          fence: 1,
          id: task.id,
          losses: 0,
          name: "résumé",
          payload: task.payload,
          priority: 7,
          queue: task.queue
        })
      }
    }))

  it.effect("a send of nothing succeeds", () => Effect.map(send(), (sent) => assert.deepStrictEqual(sent, [])))

  it.effect("sending an id that is there already is refused", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const task = newTask({ queue, payload: "1" })
      yield* send(task)
      assertRefused(yield* Effect.flip(send({ ...task, payload: "2" })))
      assert.deepStrictEqual(payloads(yield* claim(yield* startWorker, want(queue))), ["1"])
      assertRefused(yield* Effect.flip(send(task)))
    }))

  it.effect("the tasks of one send are stored all or none", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const broker = yield* Broker
      const there = newTask({ queue })
      const twice = newTask({ queue })
      yield* send(there)
      for (
        const batch of [
          [newTask({ queue }), there, newTask({ queue })],
          [twice, newTask({ queue }), twice],
          [newTask({ queue }), newTask({ queue, priority: 0 })],
          [newTask({ queue }), newTask({ queue, priority: 101 })],
          [newTask({ queue }), newTask({ queue, payload: "{" })]
        ]
      ) {
        assertRefused(yield* Effect.flip(send(...batch)))
        for (const { id } of batch) {
          assert.strictEqual(Option.isSome(yield* broker.find(id)), id === there.id)
        }
      }
      assert.deepStrictEqual(ids(yield* claim(yield* startWorker, want(queue))), [there.id])
    }))

  it.effect("a refused send leaves those made at the same time alone", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const tasks = newTasks(60, { queue })
      const bad = new Set([tasks[0]!.id, tasks[31]!.id, tasks[59]!.id])
      const results = yield* Effect.forEach(
        tasks,
        (task) => Effect.result(send(bad.has(task.id) ? { ...task, payload: "no JSON" } : task)),
        { concurrency: "unbounded" }
      )
      for (const [i, result] of results.entries()) {
        assert.strictEqual(result._tag, bad.has(tasks[i]!.id) ? "Failure" : "Success")
      }
      assert.sameMembers(
        ids(yield* claim(yield* startWorker, want(queue))),
        ids(tasks).filter((id) => !bad.has(id))
      )
    }))

  const texts: Readonly<Record<string, string>> = {
    "NUL escapes": JSON.stringify({ a: "\u0000", "\u0000": "b\u0000c" }),
    "characters beyond the basic plane": JSON.stringify("𝒳 🐎 \u{10ffff}"),
    "lone surrogates": JSON.stringify("\ud800 \udfff"),
    "quotes, backslashes and controls": JSON.stringify("\" \\ \\\\ \u0001 \u001f \u007f \u2028 \t\n"),
    "white space, key order and repeated keys": `{ "b" : 1 ,\n "a":2, "b":3 }`,
    "numbers that JavaScript cannot hold": "[12345678901234567890.10, 1e400, -0, 1.0]",
    "one megabyte": JSON.stringify("ä🐎x".repeat(150_000))
  }
  for (const [what, text] of Object.entries(texts)) {
    it.effect(`payloads, results and errors come back as they were given: ${what}`, () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const broker = yield* Broker
        yield* send(newTask({ queue, payload: text }), newTask({ queue, payload: text }))
        const claimed = yield* claim(worker, want(queue))
        assert.isTrue(claimed.every(({ payload }) => payload === text))
        const ends = [completed(text), failed("Error", text)] as const
        const { accepted } = yield* finish(worker, ...claimed.map((task, i) => ended(task, ends[i]!)))
        assert.strictEqual(accepted.size, 2)
        for (const task of claimed) {
          const record = Option.getOrThrow(yield* broker.find(task.id))
          assert.isTrue(record.payload === text)
          for (const outcome of [record.outcome, yield* broker.outcome(task.id)]) {
            assert.isTrue(textOf(outcome) === text)
          }
        }
      }))
  }

  it.effect("a batch of 2,000 tasks of every kind arrives whole and in order", () =>
    Effect.gen(function*() {
      const queues = [uniqueQueue(), uniqueQueue(), uniqueQueue()]
      const names = ["a", "b", "c", "d"]
      const tasks = Array.from({ length: 2000 }, (_, i) =>
        newTask({
          queue: queues[i % 3]!,
          name: names[i % 4]!,
          priority: 1 + (i * 7) % 100,
          payload: JSON.stringify({ i }),
          due: { after: i % 5 === 0 ? 3_600_000 : 0 }
        }))
      yield* send(...tasks)
      const worker = yield* startWorker
      for (const queue of queues) {
        const claimed = yield* claim(worker, want(queue, { names, slots: 2000 }))
        const expected = tasks
          .filter((task) => task.queue === queue && !("after" in task.due && task.due.after > 0))
          .toSorted((a, b) => a.priority - b.priority || (a.id < b.id ? -1 : 1))
        assert.deepStrictEqual(payloads(claimed), expected.map(({ payload }) => payload))
        assert.isAbove((yield* promote(queue)) ?? Number.NaN, 3_500_000)
      }
    }))
}
