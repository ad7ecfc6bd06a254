import * as Layer from "effect/Layer"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import { brokerContract } from "./brokerContract.ts"
import * as PostgresHarness from "./postgresHarness.ts"

brokerContract(
  "PostgresBroker",
  PostgresBroker.layer.pipe(Layer.provideMerge(PostgresHarness.layer)),
  { excludeTestServices: true }
)

brokerContract(
  "PostgresBroker over an application's client, without a session",
  PostgresBroker.layerSqlClient().pipe(
    Layer.provide(PostgresHarness.application),
    Layer.provideMerge(PostgresHarness.layer)
  ),
  { excludeTestServices: true }
)
