/** The PostgreSQL broker on a database of the test file's own. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import { TestDatabase } from "./TestDatabase.ts"

/** How the tests connect to their database. */
export const config: Layer.Layer<PostgresConfig.PostgresConfig, PostgresConfig.PostgresConfigError, TestDatabase> =
  Layer
    .unwrap(
      Effect.map(TestDatabase, ({ url }) => PostgresConfig.layer({ databaseUrl: url }))
    )

/** The broker, its `SqlClient`, and the database. */
export const layer = PostgresBroker.layer.pipe(
  Layer.provide(config),
  Layer.provideMerge(TestDatabase.layer)
)
