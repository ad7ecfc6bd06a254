/** Sends inside transactions: what brokers over SQL can do beyond the contract. */
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import type { PostgresConfig } from "../../src/PostgresConfig.ts"
import type { TestDatabase } from "../support/TestDatabase.ts"
import {
  claim,
  claimOne,
  completed,
  ended,
  find,
  finish,
  ids,
  newTask,
  newTasks,
  outcome,
  send,
  startWorker,
  uniqueQueue,
  wakeUpThat,
  want
} from "./Harness.ts"
import * as PostgresHarness from "./postgresHarness.ts"

/** A broker over the database of the harness, and the client whose transactions it joins. */
export const transactions = <E>(
  what: string,
  broker: Layer.Layer<Broker | SqlClient, E, PostgresConfig | TestDatabase>
) =>
  layer(broker.pipe(Layer.provideMerge(PostgresHarness.layer)), { excludeTestServices: true })(
    `a transaction of ${what}`,
    (it) => {
      it.effect("what is sent in it becomes claimable, and wakes workers, with its commit", () =>
        Effect.gen(function*() {
          const sql = yield* SqlClient
          const broker = yield* Broker
          const worker = yield* startWorker
          const [queue, other] = [uniqueQueue(), uniqueQueue()]
          const tasks = [newTask({ queue }), newTask({ queue, priority: 5 })]
          const wakeUps = yield* broker.wakeUps
          const [sent, commit] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
          const transaction = yield* Effect.forkChild(sql.withTransaction(Effect.gen(function*() {
            yield* send(...tasks)
            // The transaction itself sees it.
            assert.strictEqual((yield* find(tasks[0]!.id)).state, "PENDING")
            yield* Deferred.succeed(sent, undefined)
            yield* Deferred.await(commit)
          })))
          yield* Deferred.await(sent)
          assert.isTrue(Option.isNone(yield* broker.find(tasks[0]!.id)))
          assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
          assert.strictEqual((yield* Effect.flip(outcome(tasks[0]!.id)))._tag, "TaskNotFound")
          // Sent later, outside of the transaction, and heard of first.
          yield* send(newTask({ queue: other }))
          const first = yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent")
          assert.isTrue(first._tag === "Sent" && first.queue === other)

          yield* Deferred.succeed(commit, undefined)
          yield* Fiber.join(transaction)
          const second = yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent")
          assert.isTrue(second._tag === "Sent" && second.queue === queue && second.priority === 5)
          assert.deepStrictEqual(ids(yield* claim(worker, want(queue))), ids(tasks.toReversed()))
        }))

      it.effect("what is sent in it is gone when it is rolled back, and wakes nobody", () =>
        Effect.gen(function*() {
          const sql = yield* SqlClient
          const broker = yield* Broker
          const [queue, other] = [uniqueQueue(), uniqueQueue()]
          const wakeUps = yield* broker.wakeUps
          const task = newTask({ queue })
          const result = yield* Effect.flip(sql.withTransaction(Effect.andThen(send(task), Effect.fail("no" as const))))
          assert.strictEqual(result, "no")
          assert.isTrue(Option.isNone(yield* broker.find(task.id)))
          assert.deepStrictEqual(yield* claim(yield* startWorker, want(queue)), [])
          yield* send(newTask({ queue: other }))
          const first = yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Sent")
          assert.isTrue(first._tag === "Sent" && first.queue === other)
          // The id is free again.
          yield* send(task)
          assert.strictEqual((yield* find(task.id)).state, "PENDING")
        }))

      it.effect("a refused send can be handled in it when it is nested, and leaves the rest alone", () =>
        Effect.gen(function*() {
          const sql = yield* SqlClient
          const queue = uniqueQueue()
          const [before, after] = [newTask({ queue }), newTask({ queue })]
          const error = yield* sql.withTransaction(Effect.gen(function*() {
            yield* send(before)
            const error = yield* Effect.flip(sql.withTransaction(send(newTask({ queue }), before)))
            yield* send(after)
            return error
          }))
          assert.isTrue(error._tag === "BrokerError" && error.reason._tag === "Refused")
          assert.deepStrictEqual(ids(yield* claim(yield* startWorker, want(queue))), ids([before, after]))
        }))

      it.effect("rows of the application and tasks are committed together", () =>
        Effect.gen(function*() {
          const sql = yield* SqlClient
          const queue = uniqueQueue()
          yield* sql`create table if not exists order_lines (order_id text, line_count int)`
          yield* sql.withTransaction(Effect.gen(function*() {
            yield* sql`insert into order_lines values (${queue}, 2)`
            yield* send(...newTasks(2, { queue }))
          }))
          const rows = yield* sql`select line_count as "lineCount" from order_lines where order_id = ${queue}`
          assert.deepStrictEqual(rows, [{ lineCount: 2 }])
          assert.lengthOf(yield* claim(yield* startWorker, want(queue)), 2)
        }))

      it.effect("an outcome recorded in it is heard of, and lost with its rollback", () =>
        Effect.gen(function*() {
          const sql = yield* SqlClient
          const queue = uniqueQueue()
          const worker = yield* startWorker
          yield* send(newTask({ queue }))
          const hold = yield* claimOne(worker, queue)
          yield* Effect.flip(sql.withTransaction(
            Effect.andThen(finish(worker, ended(hold, completed("1"))), Effect.fail("no"))
          ))
          assert.strictEqual((yield* find(hold.id)).state, "CLAIMED")
          yield* sql.withTransaction(finish(worker, ended(hold, completed("2"))))
          assert.deepStrictEqual(yield* outcome(hold.id), { _tag: "Completed", value: "2" })
        }))
    }
  )
