/** A claim locks what it takes and nothing else, so that claims of others pass it by. */
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker, type ClaimedTask, type NewTask, type Want } from "../../src/Broker.ts"
import {
  advance,
  claim,
  completed,
  configure,
  ended,
  ids,
  lease,
  newTask,
  recover,
  retry,
  send,
  startWorker,
  uniqueQueue,
  want
} from "../contract/Harness.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"

const names = ["a", "b", "c"]

/** Claims in a transaction that stays open while `meanwhile` runs. */
const holding = Effect.fnUntraced(function*<A, E, R>(
  worker: string,
  wants: Want,
  meanwhile: (claimed: ReadonlyArray<ClaimedTask>) => Effect.Effect<A, E, R>
) {
  const sql = yield* SqlClient
  const claimed = yield* Deferred.make<ReadonlyArray<ClaimedTask>>()
  const over = yield* Deferred.make<void>()
  const transaction = yield* Effect.forkChild(sql.withTransaction(Effect.gen(function*() {
    yield* Deferred.succeed(claimed, yield* claim(worker, wants))
    yield* Deferred.await(over)
  })))
  yield* meanwhile(yield* Deferred.await(claimed))
  yield* Deferred.succeed(over, undefined)
  yield* Fiber.join(transaction)
})

const some = (count: number, queue: string): ReadonlyArray<NewTask> =>
  Array.from({ length: count }, (_, i) => newTask({ queue, name: names[i % 3]!, priority: 1 + i % 5 }))

/** A queue of which at most so many may run at once, with tasks. */
const limitedQueue = Effect.fnUntraced(function*(concurrency: number, count: number) {
  const queue = uniqueQueue()
  yield* configure(queue, { limits: { concurrency } })
  yield* send(...some(count, queue))
  return queue
})

layer(PostgresHarness.broker, { excludeTestServices: true })(
  "while a claim has not been committed",
  (it) => {
    const cases: Readonly<Record<string, Parameters<typeof want>[1] & { readonly slots: number }>> = {
      "a claim over one name": { names: ["a"], slots: 7 },
      "a claim over several names": { names, slots: 7 },
      "a claim ahead": { names, slots: 2, ahead: 9 }
    }
    for (const [what, wants] of Object.entries(cases)) {
      it.effect(`${what} leaves every other task to others`, () =>
        Effect.gen(function*() {
          const queue = uniqueQueue()
          const tasks = some(60, queue)
          yield* send(...tasks)
          const [one, two] = [yield* startWorker, yield* startWorker]
          yield* holding(one, want(queue, wants), (taken) =>
            Effect.gen(function*() {
              assert.lengthOf(taken, wants.slots + (wants.ahead ?? 0))
              // Lane by lane: over several names a claim looks first and locks then, and takes fewer when others were there.
              const rest: Array<string> = []
              for (const name of names) rest.push(...ids(yield* claim(two, want(queue, { names: [name] }))))
              assert.sameMembers([...ids(taken), ...rest], ids(tasks))
            }))
        }))
    }

    it.effect("a claim of tasks that were lost before leaves the others to others", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const tasks = some(30, queue)
        yield* send(...tasks)
        yield* claim(yield* startWorker, want(queue, { names }))
        yield* advance(lease + 1)
        yield* recover
        const [one, two] = [yield* startWorker, yield* startWorker]
        yield* holding(one, want(queue, { names, slots: 4, ahead: 3 }), (taken) =>
          Effect.gen(function*() {
            assert.lengthOf(taken, 4)
            const rest = yield* claim(two, want(queue, { names }))
            assert.sameMembers([...ids(taken), ...ids(rest)], ids(tasks))
          }))
      }))

    it.effect("a claim over several names still finds what the first has left", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        yield* send(...some(60, queue))
        const [one, two] = [yield* startWorker, yield* startWorker]
        yield* holding(one, want(queue, { names, slots: 10 }), () =>
          Effect.gen(function*() {
            assert.lengthOf(yield* claim(two, want(queue, { names, slots: 10 })), 10)
          }))
      }))

    it.effect("a finish does not wait for who has locked its queue: it claims nothing, and says to look again at once", () =>
      Effect.gen(function*() {
        const queue = yield* limitedQueue(2, 6)
        const broker = yield* Broker
        const [one, two] = [yield* startWorker, yield* startWorker]
        const [hold] = yield* claim(two, want(queue, { names, slots: 1 }))
        yield* holding(one, want(queue, { names, slots: 1 }), () =>
          Effect.gen(function*() {
            const attempts = [ended(hold!, completed())]
            const { accepted, claimed } = yield* broker.finish(two, attempts, [want(queue, { names, slots: 1 })])
            assert.isTrue(accepted.has(hold!.id))
            assert.deepStrictEqual(claimed.tasks, [])
            assert.strictEqual(claimed.again.get(queue), 0)
          }))
      }))

    it.effect("a finish does not wait for who has locked another queue from which it is to claim, too", () =>
      Effect.gen(function*() {
        const queue = yield* limitedQueue(2, 6)
        const locked = yield* limitedQueue(2, 6)
        const broker = yield* Broker
        const [one, two] = [yield* startWorker, yield* startWorker]
        const [hold] = yield* claim(two, want(queue, { names, slots: 1 }))
        yield* holding(one, want(locked, { names, slots: 1 }), () =>
          Effect.gen(function*() {
            const wants = [queue, locked].map((name) => want(name, { names, slots: 1 }))
            const { accepted, claimed } = yield* broker.finish(two, [ended(hold!, completed())], wants)
            assert.isTrue(accepted.has(hold!.id))
            assert.deepStrictEqual(claimed.tasks.map((task) => task.queue), [queue])
            assert.strictEqual(claimed.again.get(locked), 0)
          }))
      }))

    it.effect("a claim that was under way when its queue was given a limit counts from the next recovery on", () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        yield* send(...some(6, queue))
        let held = 0
        yield* holding(worker, want(queue, { names, slots: 2 }), (claimed) => {
          held = claimed.length
          return configure(queue, { limits: { concurrency: 3 } })
        })
        assert.strictEqual(held, 2)
        yield* recover
        assert.lengthOf(yield* claim(worker, want(queue, { names })), 1)
      }))

    it.effect("a finish that takes its own place of a full queue again wakes nobody; one that takes none does", () =>
      Effect.gen(function*() {
        const queue = yield* limitedQueue(1, 3)
        const broker = yield* Broker
        const worker = yield* startWorker
        const [first] = yield* claim(worker, want(queue, { names }))
        const wakeUps = yield* broker.wakeUps
        const own = yield* broker.finish(worker, [ended(first!, completed())], [want(queue, { names })])
        assert.lengthOf(own.claimed.tasks, 1)
        assert.isTrue(own.claimed.full.has(queue))
        // Workers of this process are told before a finish succeeds.
        const told = Effect.map(
          Queue.clear(wakeUps),
          (all) => all.filter((wakeUp) => wakeUp._tag === "Sent" && wakeUp.queue === queue).length
        )
        assert.strictEqual(yield* told, 0)
        yield* broker.finish(worker, [ended(own.claimed.tasks[0]!, completed())], [])
        assert.strictEqual(yield* told, 1)
        // Claimed again by the statement that has recorded its last attempt, it has its place, and gives it back.
        const [third] = yield* claim(worker, want(queue, { names }))
        const again = yield* broker.finish(worker, [ended(third!, retry(0))], [want(queue, { names })])
        assert.deepStrictEqual(ids(again.claimed.tasks), [third!.id])
        yield* told
        yield* broker.finish(worker, [ended(again.claimed.tasks[0]!, completed())], [])
        assert.strictEqual(yield* told, 1)
      }).pipe(Effect.scoped))
  }
)
