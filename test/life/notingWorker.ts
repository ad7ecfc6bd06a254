/** A worker in a process of its own that notes in the database what it does. Arguments: the database's URL. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Worker from "../../src/Worker.ts"
import { Endless, Noted } from "./tasks.ts"

const note = (what: string) =>
  Effect.orDie(SqlClient.use((sql) => sql`insert into events (what, pid) values (${what}, ${process.pid})`))

Layer.merge(
  // The server works for the handler, between two looks at its own clock.
  Noted.toLayer(({ millis, n }) =>
    SqlClient.use((sql) =>
      sql`insert into runs (n, pid, begun, slept, ended)
        values (${n}, ${process.pid}, clock_timestamp(), pg_sleep(${millis / 1000})::text, clock_timestamp())`
    ).pipe(Effect.orDie, Effect.asVoid)
  ),
  Endless.toLayer(() =>
    Effect.acquireRelease(note("started"), () => note("finalized")).pipe(
      Effect.andThen(Effect.never),
      Effect.onInterrupt(() => note("interrupted"))
    )
  )
).pipe(
  Layer.provide(Worker.layer({ queues: { noted: { concurrency: 2, limits: { concurrency: 5 } }, endless: {} } })),
  Layer.provide(PostgresBroker.layerWorker),
  Layer.provide(PostgresConfig.layer({ databaseUrl: Redacted.make(process.argv[2] ?? "") })),
  Layer.launch,
  NodeRuntime.runMain
)
