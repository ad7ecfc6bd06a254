/** The pooled SQL client: ordinary statements of every part of the broker, and of the application beside it. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type { SqlClient } from "effect/sql/SqlClient"
import { BrokerError } from "../Broker.ts"
import { PostgresConfig } from "../PostgresConfig.ts"
import { connectionConfig } from "./connectionConfig.ts"
import { brokerFailure, fromSqlError, typedTransaction } from "./failure.ts"

/**
 * The pool as a layer. Building it proves that the server can be reached: it fails within `connectTimeout` otherwise.
 */
export const layer: Layer.Layer<PgClient.PgClient | SqlClient, BrokerError, PostgresConfig> = PgClient.layerFrom(
  Effect.gen(function*() {
    const config = yield* PostgresConfig
    const client = yield* PgClient.make({
      ...connectionConfig(config, config.database),
      minConnections: 0,
      maxConnections: config.poolSize + config.maxOverflow
    })
    yield* brokerFailure(client`select 1`)
    const withTransaction = client.withTransaction
    return Object.assign(client, {
      withTransaction: <A, E, R>(self: Effect.Effect<A, E, R>) => typedTransaction(withTransaction(self))
    })
  }).pipe(Effect.mapError((error) => error instanceof BrokerError ? error : fromSqlError(error)))
)
