import * as Layer from "effect/Layer"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import { brokerContract } from "../../src/testing/contract.ts"
import * as PostgresHarness from "./postgresHarness.ts"

brokerContract(
  "PostgresBroker",
  PostgresHarness.transactional.pipe(
    Layer.provideMerge(PostgresBroker.layer),
    Layer.provideMerge(PostgresHarness.layer)
  ),
  { excludeTestServices: true, transactions: true }
)

brokerContract(
  "PostgresBroker over an application's client, without a session",
  PostgresHarness.transactional.pipe(
    Layer.provideMerge(PostgresBroker.layerSqlClient()),
    Layer.provide(PostgresHarness.application),
    Layer.provideMerge(PostgresHarness.layer)
  ),
  { excludeTestServices: true, transactions: true }
)
