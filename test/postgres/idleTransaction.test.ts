/** Transactions whose handler does something else for longer than the server lets a transaction wait. */
import { assert, layer } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { make } from "../../src/postgres/transacting.ts"
import { uuid } from "../../src/testing/contract/steps.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"
import { until } from "../support/worker.ts"

const limit = 300

layer(PostgresHarness.application.pipe(Layer.provideMerge(PostgresHarness.layer)), { excludeTestServices: true })(
  "a transaction that waits for its handler",
  (it) => {
    it.effect("goes on for as long as the handler does, whatever the limit of the server is", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        const observer = yield* PostgresHarness.TestSql
        const hold = { id: uuid(), fence: 1 }
        const transact = make({
          client: sql,
          schema: "public",
          finish: () => () =>
            Effect.succeed({
              accepted: new Set([hold.id]),
              claimed: { tasks: [], again: new Map(), full: new Set() },
              waiting: [],
              cancelled: [],
              lost: []
            }),
          ended: () => Effect.void,
          idleLimit: Duration.millis(limit)
        })
        const end = { _tag: "Completed", value: "1" } as const
        const attempt = Effect.gen(function*() {
          const [row] = yield* Effect.orDie(sql<{ readonly pid: number }>`select pg_backend_pid() as pid`)
          yield* Effect.provideService(
            until(
              `select clock_timestamp() - xact_start > interval '${3 * limit} milliseconds'
                from pg_stat_activity where pid = ${row!.pid}`
            ),
            SqlClient,
            observer
          )
          return { end, elapsed: 1 }
        })
        assert.deepStrictEqual(yield* transact("worker", hold, attempt), { end, settled: true })
      }))
  }
)
