/** A test file's own database whose clock the tests can move. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import * as String from "effect/String"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as DatabaseClock from "../../src/testing/DatabaseClock.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { Harness } from "./Harness.ts"

/** The client of the tests themselves. */
export class TestSql extends Context.Service<TestSql, PgClient.PgClient>()(
  "effect-horsies/test/contract/TestSql"
) {}

const client = Layer.effect(
  TestSql,
  Effect.gen(function*() {
    const { url } = yield* TestDatabase
    // Its connections find the clock of the database by its search path, so that has to be there.
    yield* DatabaseClock.DatabaseClock
    const context = yield* Layer.build(PgClient.layer({ url, maxConnections: 5 }))
    return Context.get(context, PgClient.PgClient)
  })
)

const harness = Layer.effect(
  Harness,
  Effect.map(DatabaseClock.DatabaseClock, (clock) => ({
    advance: (millis: number) => Effect.orDie(clock.move(millis)),
    now: Effect.orDie(clock.now)
  }))
)

/** The database, its clock, and the settings of brokers over it. */
export const layer = harness.pipe(
  Layer.provideMerge(client),
  Layer.provideMerge(DatabaseClock.layer),
  Layer.provideMerge(TestBroker.config),
  Layer.provideMerge(TestDatabase.layer)
)

/** A broker with a client of its own over all that. */
export const broker = PostgresBroker.layer.pipe(Layer.provideMerge(layer))

/** The client of an application: it renames whatever it sends and receives, and leaves no statement prepared. */
export const application = Layer.unwrap(Effect.map(TestDatabase, ({ url }) =>
  PgClient.layer({
    url,
    maxConnections: 5,
    prepare: false,
    transformQueryNames: String.camelToSnake,
    transformResultNames: String.snakeToCamel
  })))

/** The harness with a table of its own, written through the client of the broker. */
export const transactional = Layer.effect(
  Harness,
  Effect.gen(function*() {
    const harness = yield* Harness
    const sql = yield* SqlClient
    const observer = yield* TestSql
    yield* observer`create table test_markers (written_at timestamptz not null default now())`
    return {
      ...harness,
      transactional: {
        write: Effect.orDie(Effect.asVoid(sql`insert into test_markers default values`)),
        count: Effect.orDie(Effect.map(
          observer<{ readonly count: number }>`select count(*)::int4 as count from test_markers`,
          ([row]) => row!.count
        ))
      }
    }
  })
)
