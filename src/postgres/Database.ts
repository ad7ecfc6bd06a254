/** How the broker's statements reach the database: typed parameters, positional rows, the broker's errors. */
import * as PgTypes from "@effect/sql-pg/PgTypes"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { SqlClient } from "effect/sql/SqlClient"
import type { BrokerError } from "../Broker.ts"
import { StatementDeadline } from "../connection/Deadlines.ts"
import { brokerFailure } from "../connection/failure.ts"

/** One row, its columns in the order of the statement. */
export type Row = ReadonlyArray<unknown>

/** Whether a text can be the id of a task. Anything else the driver refuses to send, and with it the whole batch. */
export const isUuid = (id: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)

/** The database as the groups of statements see it. */
export interface Database {
  /** The PostgreSQL schema that holds the tables. */
  readonly schema: string
  /** Runs a statement on the transaction of the calling fiber, if it has one, else on the pool. */
  readonly run: (
    statement: string,
    parameters: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<Row>, BrokerError>
  /** Whether the calling fiber is inside a transaction of the client. */
  readonly inTransaction: Effect.Effect<boolean>
  /** Runs an effect after the commit of the calling fiber's transaction. */
  readonly afterCommit: (effect: Effect.Effect<void>) => Effect.Effect<void>
}

/**
 * The database behind a client, whatever name transforms that has. With a client of ours, no statement takes longer than
 * the deadline.
 */
export const fromClient = (client: SqlClient, schema: string, deadline?: Duration.Duration): Database => {
  const sql = client.withoutTransforms()
  return {
    schema,
    run: (statement, parameters) =>
      Effect.provideService(brokerFailure(sql.unsafe(statement, parameters).values), StatementDeadline, deadline),
    inTransaction: Effect.map(Effect.serviceOption(client.transactionService), (option) => option._tag === "Some"),
    afterCommit: client.afterCommit
  }
}

const array = (oid: number) => (values: ReadonlyArray<unknown>) => Result.getOrThrow(PgTypes.array(values, oid))

/** Parameters that stay typed when they are empty or hold only nulls. */
export const uuids = array(PgTypes.OID.uuid)
export const texts = array(PgTypes.OID.text)
export const integers = array(PgTypes.OID.int4)
export const floats = array(PgTypes.OID.float8)
export const booleans = array(PgTypes.OID.bool)
export const uuid = PgTypes.uuid
export const text = PgTypes.text
export const integer = PgTypes.int4
export const float = PgTypes.float8
