/**
 * The connections of transactional handlers: a pool of their own, so that handlers that take long never keep finishes from
 * being recorded. Its transactions are those of the pooled client: whatever a handler uses takes part in them.
 */
import type * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql/SqlClient"
import { PostgresConfig } from "../PostgresConfig.ts"
import { Siblings } from "./Siblings.ts"
import * as SqlPool from "./SqlPool.ts"

export class TransactionSql extends Context.Service<TransactionSql, {
  readonly client: PgClient.PgClient
}>()("effect-horsies/connection/TransactionSql") {
  /** Opens nothing before the first transaction. */
  static readonly layer: Layer.Layer<TransactionSql, never, PostgresConfig | SqlClient> = Layer.effect(
    TransactionSql,
    Effect.gen(function*() {
      const config = yield* PostgresConfig
      const { client } = yield* SqlPool.make(config, {
        name: "transactions",
        endpoint: config.database,
        size: { size: 0, overflow: config.transactionalPoolSize },
        transactionPool: config.pgbouncerTransactionMode,
        prePing: config.poolPrePing,
        limited: true,
        unprovenEnds: config.pgbouncerTransactionMode,
        transactionsOf: yield* SqlClient
      })
      return { client }
    })
  ).pipe(Layer.provide(Siblings.layer), Layer.provide(Reactivity.layer))
}
