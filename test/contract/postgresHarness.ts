/** A test file's own database whose clock the tests can move. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as String from "effect/String"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as SchemaInitializer from "../../src/schema/SchemaInitializer.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { Harness } from "./Harness.ts"

/**
 * The broker asks `horsies_now()` for the time, so that is what the tests replace. Recovery also asks how long the
 * server has been up: an unqualified name, so a search path that puts the system's functions second replaces it too.
 */
const movableClock = [
  `create table test_clock (shift interval not null)`,
  `insert into test_clock values ('0')`,
  `create or replace function horsies_now() returns timestamptz language sql stable parallel safe
  as 'select statement_timestamp() + (select shift from test_clock)'`,
  `create table test_server (started_at timestamptz not null)`,
  `insert into test_server values ('-infinity')`,
  `create function pg_postmaster_start_time() returns timestamptz language sql stable
  as 'select started_at from public.test_server'`
]

/** The client of the tests themselves. */
export class TestSql extends Context.Service<TestSql, PgClient.PgClient>()(
  "effect-horsies/test/contract/TestSql"
) {}

const client = Layer.effect(
  TestSql,
  Effect.gen(function*() {
    const { name, url } = yield* TestDatabase
    const context = yield* Layer.build(PgClient.layer({ url, maxConnections: 5 }))
    const sql = Context.get(context, PgClient.PgClient)
    yield* Effect.provide(SchemaInitializer.initialize({ schema: "public", migrate: true }), context)
    for (const statement of movableClock) yield* sql.unsafe(statement)
    // For the connections to come.
    yield* sql.unsafe(`alter database ${name} set search_path = public, pg_catalog`)
    return sql
  })
)

const harness = Layer.effect(
  Harness,
  Effect.map(TestSql, (sql) => ({
    advance: (millis: number) =>
      Effect.orDie(Effect.asVoid(sql`update test_clock set shift = shift + ${millis} * interval '1 millisecond'`)),
    now: Effect.orDie(Effect.map(
      sql<{ readonly now: number }>`select (extract(epoch from horsies_now()) * 1000)::float8 as now`,
      ([row]) => row!.now
    ))
  }))
)

/** The database, its clock, and the settings of brokers over it. */
export const layer = Layer.mergeAll(
  harness,
  Layer.unwrap(Effect.map(TestDatabase, ({ url }) => PostgresConfig.layer({ databaseUrl: url })))
).pipe(
  Layer.provideMerge(client),
  Layer.provideMerge(TestDatabase.layer)
)

/** The client of an application: it renames whatever it sends and receives, and leaves no statement prepared. */
export const application = Layer.unwrap(Effect.map(TestDatabase, ({ url }) =>
  PgClient.layer({
    url,
    maxConnections: 5,
    prepare: false,
    transformQueryNames: String.camelToSnake,
    transformResultNames: String.snakeToCamel
  })))
