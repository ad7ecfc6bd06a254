/** Transactions, and several brokers over one database, through PgBouncer in transaction mode. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import { processes } from "../contract/processes.ts"
import { transactions } from "../contract/transactions.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

/** A broker whose pool goes through PgBouncer, and whose session goes to the server itself. */
const pooled = PostgresBroker.layer.pipe(
  Layer.provide(Layer.unwrap(Effect.gen(function*() {
    const pooler = yield* PgBouncer.PgBouncer
    const { url } = yield* TestDatabase
    return PostgresConfig.layer({
      databaseUrl: pooler.url,
      sessionDatabaseUrl: url,
      pgbouncerTransactionMode: true
    })
  }))),
  // Two at least: a transaction that is open while another statement is to see nothing of it.
  Layer.provide(PgBouncer.PgBouncer.layer({ poolMode: "transaction", poolSize: 4 }))
)

transactions("the broker's own client through PgBouncer", pooled)
processes("two brokers over one database through PgBouncer", pooled)
