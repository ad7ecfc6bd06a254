import * as Layer from "effect/Layer"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresHarness from "./postgresHarness.ts"
import { transactions } from "./transactions.ts"

transactions("the broker's own client", PostgresBroker.layer)
transactions(
  "an application's client",
  PostgresBroker.layerSqlClient().pipe(Layer.provideMerge(PostgresHarness.application))
)
