/** A claim locks what it takes and nothing else, so that claims of others pass it by. */
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import type { ClaimedTask, NewTask, Want } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import {
  advance,
  claim,
  ids,
  lease,
  newTask,
  recover,
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

layer(PostgresBroker.layer.pipe(Layer.provideMerge(PostgresHarness.layer)), { excludeTestServices: true })(
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
  }
)
