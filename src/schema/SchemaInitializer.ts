/**
 * Makes the broker's tables: what is missing is created, what is older is migrated. Any number of processes may start
 * at once: one does the work under an advisory lock, the others wait for it.
 */
import * as Effect from "effect/Effect"
import * as Migrator from "effect/sql/Migrator"
import { SqlClient } from "effect/sql/SqlClient"
import { isSqlError } from "effect/sql/SqlError"
import { BrokerError, Refused, SchemaMismatch } from "../Broker.ts"
import { brokerFailure } from "../connection/failure.ts"
import * as tasks from "./0001_tasks/index.ts"

/** What to initialize. */
export interface Options {
  /** The PostgreSQL schema that holds the tables. */
  readonly schema: string
  /** When `false`, nothing is changed, and a schema that is missing or older is an error. */
  readonly migrate: boolean
}

const migrations: ReadonlyArray<{
  readonly id: number
  readonly name: string
  readonly statements: (schema: string) => ReadonlyArray<string>
}> = [
  { id: 1, name: "tasks", statements: tasks.statements }
]

/** The version of the schema that this code works with. */
export const version = migrations.length

/** Days for which partitions of the history are made ahead. */
const daysAhead = 2

/** Every statement of the migrations, for those who apply them themselves. */
export const statements = (schema: string): ReadonlyArray<string> => [
  `create schema if not exists ${schema}`,
  `create table if not exists ${schema}.horsies_migrations (
  migration_id integer primary key,
  created_at timestamptz not null default now(),
  name text not null
)`,
  ...migrations.flatMap(({ id, name, statements }) => [
    ...statements(schema),
    `insert into ${schema}.horsies_migrations (migration_id, name) values (${id}, '${name}')`
  ])
]

/** The migrations as one text of SQL. */
export const sql = (schema: string): string => statements(schema).map((statement) => `${statement};\n`).join("\n")

const latest = Effect.fnUntraced(function*(client: SqlClient, schema: string) {
  const table = `${schema}.horsies_migrations`
  const [there] = yield* client.unsafe<{ readonly yes: boolean }>("select to_regclass($1) is not null as yes", [table])
  if (there?.yes !== true) return undefined
  const [row] = yield* client.unsafe<{ readonly version: number | null }>(
    `select max(migration_id) as version from ${table}`
  )
  return row?.version ?? undefined
})

const compare = (found: number | undefined) => {
  if (found === undefined) {
    return new SchemaMismatch({
      message: "the tables are not there; run the migrations first, or set migrate to true",
      expected: version
    })
  }
  const message = found > version
    ? `the tables are of version ${found}, this code knows ${version}; deploy newer code`
    : `the tables are of version ${found}, this code needs ${version}; run the migrations first, or set migrate to true`
  return new SchemaMismatch({ message, found, expected: version })
}

/** Brings the schema to this version and succeeds once it is there. Fails with `SchemaMismatch` when it is newer. */
export const initialize = (options: Options): Effect.Effect<void, BrokerError, SqlClient> =>
  brokerFailure(
    Effect.gen(function*() {
      const client = (yield* SqlClient).withoutTransforms()
      const { migrate, schema } = options
      yield* client.onDialectOrElse({
        pg: () => Effect.void,
        orElse: () =>
          Effect.fail(
            new BrokerError({ reason: new Refused({ message: "the SqlClient does not speak to PostgreSQL" }) })
          )
      })
      const found = yield* latest(client, schema)
      if (found !== undefined && found > version || found !== version && !migrate) {
        return yield* new BrokerError({ reason: compare(found) })
      }
      if (found !== version) {
        yield* client.withTransaction(Effect.gen(function*() {
          // Before anything else, so that whoever waited sees what the first has made.
          yield* client.unsafe("select pg_advisory_xact_lock(hashtextextended($1, 0))", [`${schema}.horsies`])
          // Not `to_regnamespace`: the session's cache of names does not hear of new ones while it waits for the lock.
          const [there] = yield* client.unsafe<{ readonly yes: boolean }>(
            "select exists (select from pg_namespace where nspname = $1) as yes",
            [schema]
          )
          // Not `if not exists`: that asks for the right to create schemas even when there is nothing to create.
          if (there?.yes !== true) yield* client.unsafe(`create schema ${schema}`)
          yield* Migrator.make({})({
            loader: Migrator.fromRecord(Object.fromEntries(migrations.map(({ id, name, statements }) => [
              `${String(id).padStart(4, "0")}_${name}`,
              Effect.forEach(statements(schema), (statement) => client.unsafe(statement), { discard: true })
            ]))),
            table: `${schema}.horsies_migrations`
          }).pipe(Effect.provideService(SqlClient, client))
        }))
      }
      if (migrate) yield* client.unsafe(`select ${schema}.horsies_prepare_history($1)`, [daysAhead])
    }).pipe(
      Effect.catchTag("MigrationError", (error) =>
        Effect.fail(
          isSqlError(error.cause)
            ? error.cause
            : new BrokerError({ reason: new SchemaMismatch({ message: error.message, expected: version }) })
        ))
    )
  )
