/** A worker whose handlers never end, for the test that kills it. Arguments: the database's URL. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Worker from "../../src/Worker.ts"
import { quick } from "../support/worker.ts"
import { Held } from "./tasks.ts"

Held.toLayer(() => Effect.never).pipe(
  Layer.provide(Worker.layer({ ...quick, concurrency: 100 })),
  Layer.provide(PostgresBroker.layer),
  Layer.provide(PostgresConfig.layer({ databaseUrl: Redacted.make(process.argv[2] ?? "") })),
  Layer.launch,
  NodeRuntime.runMain
)
