/** Handlers of whole batches. */
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import { type It, outcomes, quick, record, sendRaw, start } from "../support/worker.ts"
import { Odd, Sum } from "./tasks.ts"

/** So many tasks, sent in one statement, so that one claim finds them all. */
const sendNumbers = Effect.fnUntraced(function*(count: number) {
  const ids = yield* Effect.forEach(Array.from({ length: count }), () => Task.makeId)
  yield* Broker.use((broker) =>
    broker.send(ids.map((id, n) => ({
      id,
      name: "Sum",
      queue: "sums",
      payload: JSON.stringify({ n }),
      version: 1,
      priority: 100,
      due: { after: 0 },
      maxLosses: 3
    })))
  )
  return ids
})

const numbers = (batch: Task.Batch<{ readonly n: number }>) => batch.map(({ payload }) => payload.n)

export const batches = (it: It) => {
  it.effect("a handler of batches gets what is ready at once, up to its size and the concurrency", () =>
    Effect.gen(function*() {
      const seen: Array<ReadonlyArray<number>> = []
      const ids = yield* sendNumbers(10)
      yield* start(
        Sum.toBatchLayer((batch) => {
          seen.push(numbers(batch))
          return Effect.forEach(batch, ({ payload }) => Effect.as(Effect.yieldNow, Exit.succeed(payload.n * 2)))
        }, { size: 4 }),
        { ...quick, queues: { sums: { concurrency: 6 } } }
      )
      assert.deepStrictEqual(yield* Effect.forEach(ids, Sum.await), [0, 2, 4, 6, 8, 10, 12, 14, 16, 18])
      assert.deepStrictEqual(seen.flat(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
      assert.deepStrictEqual(seen.slice(0, 2), [[0, 1, 2, 3], [4, 5]])
    }))

  it.effect("a lone task does not wait for company", () =>
    Effect.gen(function*() {
      yield* start(Sum.toBatchLayer((batch) => Effect.succeed(numbers(batch).map(Exit.succeed)), { size: 100 }))
      assert.strictEqual(yield* Effect.flatMap(Sum.send({ n: 7 }), (handle) => handle.await), 7)
    }))

  it.effect("each task of a batch has an end of its own", () =>
    Effect.gen(function*() {
      let runs = 0
      const ids = yield* sendNumbers(4)
      const broken = yield* sendRaw({ name: "Sum", queue: "sums", payload: `{"n":"five"}` })
      const seen: Array<ReadonlyArray<number>> = []
      yield* start(Sum.toBatchLayer((batch) => {
        seen.push(numbers(batch))
        return Effect.forEach(batch, ({ payload: { n }, task }): Effect.Effect<Exit.Exit<number, Odd>> => {
          switch (n) {
            case 0:
              return Effect.succeed(Exit.succeed(task.attempt))
            case 1:
              return Effect.succeed(Exit.fail(new Odd({ n })))
            case 2:
              return Effect.succeed(Exit.die("two is broken"))
            default:
              return Effect.succeed(++runs === 1 ? Task.snoozed("5 millis") : Exit.succeed(runs))
          }
        })
      }, { size: 10 }))
      assert.strictEqual(yield* Sum.await(ids[0]!), 1)
      assert.deepStrictEqual(yield* Effect.flip(Sum.await(ids[1]!)), new Odd({ n: 1 }))
      const defect = yield* Effect.flip(Sum.await(ids[2]!))
      assert.instanceOf(defect, Task.TaskDefect)
      assert.include(defect.message, "two is broken")
      assert.strictEqual(yield* Sum.await(ids[3]!), 2)
      assert.deepStrictEqual(yield* outcomes(ids[3]!), ["Completed"])
      assert.instanceOf(yield* Effect.flip(Sum.await(broken)), Task.DecodeError)
      assert.deepStrictEqual(seen, [[0, 1, 2, 3], [3]])
    }))

  it.effect("a defect, an interruption of its own or a wrong number of exits is a defect of each task", () =>
    Effect.gen(function*() {
      const answers: Array<Effect.Effect<ReadonlyArray<Exit.Exit<number>>>> = [
        Effect.die("all is broken"),
        Effect.interrupt,
        Effect.succeed([Exit.succeed(1)]),
        Effect.succeed([Exit.succeed(1), Exit.succeed(1), Exit.succeed(1)])
      ]
      const texts = [
        "all is broken",
        "interrupted itself",
        "gave 1 exits for a batch of 2",
        "gave 3 exits for a batch of 2"
      ]
      let call = 0
      yield* start(Sum.toBatchLayer(() => answers[call++]!, { size: 2 }), {
        ...quick,
        queues: { sums: { concurrency: 2 } }
      })
      for (const text of texts) {
        for (const id of yield* sendNumbers(2)) {
          const error = yield* Effect.flip(Sum.await(id))
          assert.instanceOf(error, Task.TaskDefect)
          assert.include(error.message, text)
        }
      }
    }))

  it.effect("cancelling one task of a batch interrupts the others, which run again", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const finalized = yield* Deferred.make<void>()
      const seen: Array<ReadonlyArray<number>> = []
      const [first, second, third] = yield* sendNumbers(3)
      yield* start(Sum.toBatchLayer((batch) => {
        seen.push(numbers(batch))
        return seen.length > 1 ?
          Effect.succeed(numbers(batch).map(Exit.succeed)) :
          Deferred.succeed(started, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.ensuring(Deferred.succeed(finalized, undefined))
          )
      }, { size: 10 }))
      yield* Deferred.await(started)
      yield* Broker.use((broker) => broker.cancel({ ids: [second!] }))
      assert.instanceOf(yield* Effect.flip(Sum.await(second!)), Task.TaskCancelled)
      assert.isTrue(yield* Deferred.isDone(finalized))
      assert.deepStrictEqual([yield* Sum.await(first!), yield* Sum.await(third!)], [0, 2])
      assert.deepStrictEqual(yield* outcomes(second!), ["Cancelled"])
      assert.deepStrictEqual(yield* outcomes(third!), ["Neighbour", "Completed"])
      assert.strictEqual((yield* record(third!)).attempts, 1)
    }))

  it.effect("a task that takes too long ends so, and its neighbours run again", () =>
    Effect.gen(function*() {
      const quickly = yield* sendRaw({ name: "Sum", queue: "sums", payload: `{"n":1}`, timeout: 30 })
      const slowly = yield* sendRaw({ name: "Sum", queue: "sums", payload: `{"n":2}`, timeout: 60_000 })
      yield* start(Sum.toBatchLayer(
        (batch) => numbers(batch).includes(1) ? Effect.never : Effect.succeed(numbers(batch).map(Exit.succeed)),
        { size: 10 }
      ))
      assert.instanceOf(yield* Effect.flip(Sum.await(quickly)), Task.TaskTimedOut)
      assert.strictEqual(yield* Sum.await(slowly), 2)
      assert.deepStrictEqual(yield* outcomes(slowly), ["Neighbour", "Completed"])
    }))
}
