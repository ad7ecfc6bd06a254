/** What child processes cost the server. */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as Schedule from "effect/Schedule"
import { SqlClient } from "effect/sql/SqlClient"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Worker from "../../src/Worker.ts"
import { figures } from "../life/figures.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { Query } from "../worker/children/accounts.ts"

const accounts = new URL("../worker/children/accounts.ts", import.meta.url)
const connection = "effect-horsies-children"

/** Statements of the worker's own process. Children that have no connection send none. */
const statements: Array<string> = []
const counting = Logger.make(({ fiber, message }) => {
  if (!String(message).includes("statement")) return
  statements.push(String(fiber.getRef(References.CurrentLogAnnotations)["sql"]))
})

const Worker8 = Worker.layer({ concurrency: 4, processes: { module: accounts, count: 8 } }).pipe(
  Layer.provideMerge(PostgresBroker.layerWorker),
  Layer.provideMerge(
    Layer.unwrap(
      Effect.map(
        TestDatabase,
        ({ url }) => PostgresConfig.layer({ databaseUrl: url, applicationName: connection, echo: true })
      )
    )
  ),
  Layer.provideMerge(Layer.merge(TestDatabase.layer, Logger.layer([counting])))
)

layer(Worker8, { excludeTestServices: true, timeout: "120 seconds" })("a worker with 8 processes", (it) => {
  it.effect(
    "holds no connection for a child that is idle, sends one statement a second, and never takes more than 23",
    () =>
      Effect.gen(function*() {
        const config = yield* PostgresConfig.PostgresConfig
        const { url } = yield* TestDatabase
        // Beside the worker, and not counted.
        const sql = yield* Layer.build(PgClient.layer({ url, maxConnections: 1 })).pipe(
          Effect.map(Context.get(SqlClient))
        )
        const connections = Effect.map(
          sql`select from pg_stat_activity where application_name = ${connection}`,
          ({ length }) => length
        )
        yield* Effect.repeat(connections, { until: (open) => open <= 7, schedule: Schedule.spaced("500 millis") })

        const from = statements.length
        // The time over which it is measured.
        yield* Effect.sleep("30 seconds")
        const all = statements.slice(from)
        const pings = all.filter((sql) => sql === "select 1")
        const idle = yield* connections

        const seen: Array<number> = []
        yield* connections.pipe(
          Effect.tap((open) => Effect.sync(() => seen.push(open))),
          Effect.repeat(Schedule.spaced("20 millis")),
          Effect.forkScoped
        )
        const handles = yield* Effect.forEach(
          Array.from({ length: 400 }),
          () => Query.send({ millis: 50 }),
          { concurrency: 20 }
        )
        const pids = new Set(yield* Effect.forEach(handles, (handle) => handle.await))
        figures("8 processes", {
          "statements per second while idle": (all.length - pings.length) / 30,
          "and pings": pings.length / 30,
          "connections while idle": idle,
          "most connections": Math.max(...seen)
        })
        assert.strictEqual(pids.size, 8)
        // Beside the pings of connections that were idle.
        assert.isAtMost((all.length - pings.length) / 30, 1)
        assert.isAtMost(idle, 7)
        assert.strictEqual(PostgresConfig.connectionBudget(config, { processes: 8 }), 23)
        assert.isAtMost(Math.max(...seen), 23)
        // All children have used both of their connections.
        assert.isAtLeast(Math.max(...seen), 16)
      }),
    180_000
  )
})
