/** A database whose clock stands still, but for what a test adds to it. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import { Harness } from "../../src/testing/contract.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"

const standingClock = [
  `create table test_standing_clock (started_at timestamptz not null, at timestamptz not null)`,
  `insert into test_standing_clock select now, now from date_trunc('second', statement_timestamp()) now`,
  `create or replace function horsies_now() returns timestamptz language sql stable parallel safe
  as 'select at from public.test_standing_clock'`
]

const harness = Layer.effect(
  Harness,
  Effect.gen(function*() {
    const sql = yield* PostgresHarness.TestSql
    for (const statement of standingClock) yield* sql.unsafe(statement)
    return {
      advance: (millis: number) =>
        Effect.orDie(Effect.asVoid(sql`update test_standing_clock set at = at + ${millis} * interval '1 millisecond'`)),
      now: Effect.orDie(Effect.map(
        sql<{ readonly now: number }>`select (extract(epoch from at) * 1000)::float8 as now from test_standing_clock`,
        ([row]) => row!.now
      ))
    }
  })
)

/** The broker over such a database. */
export const layer = PostgresBroker.layer.pipe(
  Layer.provideMerge(harness),
  Layer.provideMerge(PostgresHarness.layer)
)

/** Back to where the clock began: days that pass in one sequence would leave the others without partitions. */
export const setBack = Effect.flatMap(
  PostgresHarness.TestSql,
  (sql) => Effect.orDie(sql`update test_standing_clock set at = started_at`)
)
