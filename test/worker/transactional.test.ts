/** Handlers that share a transaction with the completion of their task. */
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { outcomes, quick, start } from "../support/worker.ts"

class Book extends Task.make("Book", {
  payload: { n: Schema.Int, how: Schema.Literals(["well", "badly", "late", "never", "slowly"]) },
  success: Schema.Int,
  retry: { times: 1, schedule: Schedule.spaced("5 millis") }
}) {}

class Receipt extends Task.make("Receipt", { payload: { n: Schema.Int } }) {}

const booked = Effect.gen(function*() {
  const sql = yield* SqlClient
  const rows = yield* sql<{ readonly n: number }>`select n from bookings order by n`
  return rows.map(({ n }) => n)
})

/** Postponed once. */
const postponed = new Set<number>()

/** Writes a row, sends another task, and then ends as its payload says. */
const handler = (started: Deferred.Deferred<void>) =>
  Effect.fnUntraced(function*({ how, n }: Task.Payload<typeof Book>) {
    const sql = yield* SqlClient
    const { attempt } = yield* Task.CurrentTask
    yield* sql`insert into bookings values (${n})`
    yield* Effect.orDie(Receipt.send({ n }))
    switch (how) {
      case "well":
        return n
      case "badly":
        return yield* Effect.die("broken")
      case "late":
        return postponed.size === postponed.add(n).size ? n : yield* Task.snooze("5 millis")
      case "slowly":
        return attempt === 1 ? yield* Effect.never : n
      case "never":
        return yield* Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
    }
  }, Effect.catchTag("SqlError", Effect.die))

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("transactional handlers", (it) => {
  it.effect("write exactly once what completes, and nothing of what ends otherwise", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* sql`create table bookings (n int)`
      const started = yield* Deferred.make<void>()
      yield* start(Layer.orDie(Book.toLayer(handler(started), { transaction: true })), { ...quick, concurrency: 2 })

      const well = yield* Effect.forEach([1, 2, 3], (n) => Book.send({ n, how: "well" }))
      assert.deepStrictEqual(yield* Effect.forEach(well, (handle) => handle.await), [1, 2, 3])
      assert.deepStrictEqual(yield* booked, [1, 2, 3])

      const badly = yield* Book.send({ n: 4, how: "badly" })
      assert.instanceOf(yield* Effect.flip(badly.await), Task.TaskDefect)
      assert.deepStrictEqual(yield* outcomes(badly.id), ["Defect", "Defect"])

      const late = yield* Book.send({ n: 5, how: "late" })
      assert.strictEqual(yield* late.await, 5)

      const slowly = yield* Book.send({ n: 6, how: "slowly" }, { timeout: "300 millis" })
      assert.strictEqual(yield* slowly.await, 6)
      assert.deepStrictEqual(yield* outcomes(slowly.id), ["Timeout", "Completed"])

      const never = yield* Book.send({ n: 7, how: "never" })
      yield* Deferred.await(started)
      yield* Broker.use((broker) => broker.cancel({ ids: [never.id] }))
      assert.instanceOf(yield* Effect.flip(never.await), Task.TaskCancelled)

      assert.deepStrictEqual(yield* booked, [1, 2, 3, 5, 6])
      const receipts = yield* Broker.use((broker) => broker.list({ name: "Receipt" }, {}))
      assert.deepStrictEqual(receipts.map(({ payload }) => JSON.parse(payload).n).sort(), [1, 2, 3, 5, 6])
    }))
})
