/**
 * A worker whose handlers never end, and say when they are interrupted, for the tests that kill it or freeze it. Arguments:
 * the database's URL.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { writeSync } from "node:fs"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Worker from "../../src/Worker.ts"
import { quick } from "../support/worker.ts"
import { Held } from "./tasks.ts"

Held.toLayer(() => Effect.onInterrupt(Effect.never, () => Effect.sync(() => writeSync(1, "interrupted\n")))).pipe(
  Layer.provide(Worker.layer({ ...quick, concurrency: 100 })),
  Layer.provide(PostgresBroker.layer),
  Layer.provide(PostgresConfig.layer({ databaseUrl: Redacted.make(process.argv[2] ?? "") })),
  Layer.launch,
  NodeRuntime.runMain
)
