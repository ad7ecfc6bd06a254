/** Handlers in child processes that use the database. In real time. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import { readFileSync } from "node:fs"
import { Broker } from "../../../src/Broker.ts"
import * as PostgresBroker from "../../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../../src/PostgresConfig.ts"
import * as Task from "../../../src/Task.ts"
import * as Worker from "../../../src/Worker.ts"
import { TestDatabase } from "../../support/TestDatabase.ts"
import { outcomes, quick, record, until } from "../../support/worker.ts"
import { Book, Plain, Query } from "./accounts.ts"

const connection = "effect-horsies-children"

const Live = Layer.effectDiscard(SqlClient.use((sql) => sql`create table bookings (n int)`)).pipe(
  Layer.provideMerge(Worker.layer({
    ...quick,
    concurrency: 2,
    processes: { module: new URL("accounts.ts", import.meta.url), count: 2 }
  })),
  Layer.provideMerge(PostgresBroker.layer),
  Layer.provide(
    Layer.unwrap(
      Effect.map(TestDatabase, ({ url }) => PostgresConfig.layer({ databaseUrl: url, applicationName: connection }))
    )
  ),
  Layer.provideMerge(TestDatabase.layer)
)

const booked = Effect.gen(function*() {
  const sql = yield* SqlClient
  const rows = yield* sql<{ readonly n: number }>`select n from bookings order by n`
  return rows.map(({ n }) => n)
})

const connections = Effect.gen(function*() {
  const sql = yield* SqlClient
  const rows = yield* sql`select pid from pg_stat_activity where application_name = ${connection}`
  return rows.length
})

layer(Live, { excludeTestServices: true, timeout: "60 seconds" })("child processes with a database", (it) => {
  it.effect(
    "connect to it when a handler first needs it, with settings that nobody else can read",
    () =>
      Effect.gen(function*() {
        const before = yield* connections
        const pid = yield* Effect.flatMap(Plain.send({}), (handle) => handle.await)
        // Sending and awaiting may have taken more of the worker's own connections.
        assert.isAtMost(yield* connections, before + 1)
        const { url } = yield* TestDatabase
        if (process.platform === "linux") {
          assert.notInclude(readFileSync(`/proc/${pid}/cmdline`, "utf8"), "postgres")
          assert.notInclude(readFileSync(`/proc/${pid}/environ`, "utf8"), Redacted.value(url))
        }
        assert.isNumber(yield* Effect.flatMap(Query.send({ millis: 1 }), (handle) => handle.await))
      }),
    60_000
  )

  it.effect(
    "record transactional attempts themselves: what completes is written once, and nothing of what does not",
    () =>
      Effect.gen(function*() {
        const well = yield* Effect.forEach([1, 2, 3], (n) => Book.send({ n, how: "well" }))
        assert.deepStrictEqual(yield* Effect.forEach(well, (handle) => handle.await), [1, 2, 3])
        assert.deepStrictEqual(yield* booked, [1, 2, 3])

        const badly = yield* Book.send({ n: 4, how: "badly" })
        assert.instanceOf(yield* Effect.flip(badly.await), Task.TaskDefect)
        assert.deepStrictEqual(yield* outcomes(badly.id), ["Defect", "Defect"])

        const slowly = yield* Book.send({ n: 5, how: "slowly" }, { timeout: "300 millis" })
        assert.strictEqual(yield* slowly.await, 5)
        assert.deepStrictEqual(yield* outcomes(slowly.id), ["Timeout", "Completed"])

        const crashing = yield* Book.send({ n: 6, how: "crashOnce" })
        assert.strictEqual(yield* crashing.await, 6)
        assert.deepStrictEqual(yield* outcomes(crashing.id), ["Lost", "Completed"])
        const { losses, worker } = yield* record(crashing.id)
        assert.strictEqual(losses, 1)
        assert.isString(worker)

        assert.deepStrictEqual(yield* booked, [1, 2, 3, 5, 6])
        const receipts = yield* Broker.use((broker) => broker.list({ name: "Receipt" }, {}))
        assert.deepStrictEqual(receipts.map(({ payload }) => JSON.parse(payload).n).sort(), [1, 2, 3, 5, 6])
      }),
    60_000
  )

  it.effect("tell their worker at once what their transactions have recorded", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      // A queue with a cap of one, so that a slot that nobody hears of would cost a whole poll floor.
      yield* broker.configureQueue("books", { limits: { concurrency: 1 } })
      const handles = yield* Effect.forEach([11, 12, 13, 14, 15], (n) => Book.send({ n, how: "well" }))
      const results = yield* Effect.forEach(handles, (handle) => handle.await).pipe(Effect.timeout("5 seconds"))
      assert.deepStrictEqual(results, [11, 12, 13, 14, 15])
      yield* until("select not exists (select from horsies_tasks where queue = 'books')")
    }), 60_000)
})
