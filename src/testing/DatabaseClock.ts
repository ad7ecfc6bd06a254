/**
 * Virtual time over a real PostgreSQL server: the time by which the broker's tables live stands still until the test
 * moves it, together with `TestClock`.
 *
 * The layer goes under the broker, on a database of the test's own. It makes the tables if need be, and then changes the
 * database for good: what the broker asks for the time, and for outages (there are none), the search path of connections to come, and a schema
 * `horsies_test` with a table that holds the time. The role must own the database. Under `TestClock`, building it sets
 * `TestClock` to the time of the database, so that both tell the same from the beginning.
 *
 * `DatabaseClock.advance` lets time pass for both, and returns when everything that it has set off is done: a delayed
 * task has run, an attempt was repeated, a task has expired, a lease has passed. Move time with it alone: a database does
 * not notice `TestClock.adjust`.
 *
 * - Connections, and their deadlines, live in real time.
 * - A handler that waits for something else than the database and `TestClock`, an HTTP server for example, is not waited
 *   for.
 * - A worker renews its lease as time passes, so time passes in steps of a sixth of the lease: 720 of them for an hour
 *   with the defaults, of some ten milliseconds each. A worker of a test that has nothing to do with leases had
 *   better have a long heartbeat interval: `Worker.layer({ heartbeatInterval: "30 days" })`.
 *
 * @example
 * ```ts
 * import { PostgresBroker, PostgresConfig, Worker } from "effect-horsies"
 * import * as DatabaseClock from "effect-horsies/testing/DatabaseClock"
 * import { it } from "@effect/vitest"
 * import { Effect, Layer } from "effect"
 *
 * const Live = RemindLive.pipe(
 *   Layer.provide(Worker.layer({ heartbeatInterval: "30 days" })),
 *   Layer.provideMerge(PostgresBroker.layer),
 *   Layer.provideMerge(DatabaseClock.layer),
 *   Layer.provide(PostgresConfig.layer({ databaseUrl: testDatabase }))
 * )
 *
 * it.effect("reminds in an hour", () =>
 *   Effect.gen(function*() {
 *     yield* Remind.send({ email: "ada@example.com" }, { delay: "1 hour" })
 *     yield* DatabaseClock.advance("1 hour")
 *     assert.deepStrictEqual(outbox, ["ada@example.com"])
 *   }).pipe(Effect.provide(Live)))
 * ```
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as SqlClient from "effect/sql/SqlClient"
import type { TestClock } from "effect/testing/TestClock"
import type { BrokerError } from "../Broker.ts"
import { monotonic, realClock } from "../connection/Deadlines.ts"
import { brokerFailure } from "../connection/failure.ts"
import * as PooledSql from "../connection/PooledSql.ts"
import { Siblings } from "../connection/Siblings.ts"
import * as SqlPool from "../connection/SqlPool.ts"
import { type Database, float, fromClient } from "../postgres/Database.ts"
import * as PostgresConfig from "../PostgresConfig.ts"
import * as SchemaInitializer from "../schema/SchemaInitializer.ts"
import { type AdvanceOptions, DatabaseClock } from "./internal/DatabaseClock.ts"

export { type AdvanceOptions, DatabaseClock } from "./internal/DatabaseClock.ts"

/** Workers that wait for the same moment come one after another within this time, in milliseconds. */
const spread = 3

/** Nothing may have happened for this long, in milliseconds, and that many looks, before it counts as quiet. */
const quietFor = 5
const quietLooks = 4

/** How long to wait for quiet, in milliseconds. */
const patience = 4000

/** What takes its time because the steps are so small deserves a word. */
const manySteps = 2000

/**
 * Recovery also asks how long the server has been up, by an unqualified name: a search path that puts the system's
 * functions last replaces it too.
 */
const movableClock = (schema: string): ReadonlyArray<string> => [
  `create schema if not exists horsies_test`,
  `create table if not exists horsies_test.test_clock (
  only_row boolean primary key default true check (only_row),
  at timestamptz not null
)`,
  `insert into horsies_test.test_clock (at) values (date_trunc('milliseconds', clock_timestamp()))
on conflict (only_row) do update set at = greatest(test_clock.at, excluded.at)`,
  `create or replace function ${schema}.horsies_now() returns timestamptz
language sql stable parallel safe
as 'select at from horsies_test.test_clock'`,
  // Time that a test lets pass is no outage.
  `create or replace function ${schema}.horsies_reachable_since() returns timestamptz
language sql stable
as 'select timestamptz ''-infinity'''`,
  `create table if not exists horsies_test.test_server (
  only_row boolean primary key default true check (only_row),
  started_at timestamptz not null
)`,
  `insert into horsies_test.test_server (started_at) values ('-infinity') on conflict do nothing`,
  `create or replace function horsies_test.pg_postmaster_start_time() returns timestamptz
language sql stable
as 'select started_at from horsies_test.test_server'`,
  `do $$ begin
  execute format('alter database %I set search_path = "$user", public, horsies_test, pg_catalog', current_database());
end $$`
]

const nowStatement = `
select (extract(epoch from at) * 1000)::float8 from horsies_test.test_clock`

const moveStatement = `
update horsies_test.test_clock set at = at + $1 * interval '1 millisecond'`

/** Milliseconds. */
const shortestLeaseStatement = (schema: string) => `
select (extract(epoch from min(lease)) * 1000)::float8 from ${schema}.horsies_heartbeats where died_at is null`

/** Whether statements are under way, which, and when the last one began or ended. */
const activityStatement = `
select count(*) filter (where state = 'active')::int,
  string_agg(left(query, 200), '; ') filter (where state = 'active'),
  concat(count(*), ' ', max(state_change), ' ', max(query_start))
from pg_stat_activity
where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()`

/** Statements of the pool that the test has. The database may not know of them yet. */
const statements = Effect.flatMap(
  Effect.serviceOption(PooledSql.PoolStats),
  (pool) => Option.isNone(pool) ? Effect.succeed(0) : pool.value.statements
)

/** Waits until nobody has asked this database for anything for a while. */
const quiet = (database: Database): Effect.Effect<void, BrokerError> =>
  Effect.gen(function*() {
    const startedAt = monotonic()
    let last = ""
    let since = startedAt
    let looks = 0
    while (true) {
      // Lets what the event loop holds ready ask before the look does.
      yield* Effect.provideService(Effect.sleep(Duration.millis(1)), Clock.Clock, realClock)
      const [row] = yield* database.run(activityStatement, [])
      const [active, queries, activity] = row as readonly [number, string | null, string]
      const now = monotonic()
      if (active === 0 && activity === last && (yield* statements) === 0) {
        if (++looks >= quietLooks && now - since >= quietFor) return
      } else {
        last = activity
        since = now
        looks = 0
      }
      if (now - startedAt > patience) {
        return yield* Effect.die(
          new Error(
            `DatabaseClock: the database does not come to rest within ${patience} milliseconds; ` +
              (queries === null ? "statements follow upon each other" : `under way: ${queries}`)
          )
        )
      }
    }
  })

const isTestClock = (clock: Clock.Clock): clock is TestClock => Predicate.hasProperty(clock, "adjust")

const adjust = (millis: number) =>
  Clock.clockWith((clock) => isTestClock(clock) ? clock.adjust(Duration.millis(millis)) : Effect.void)

const millisOf = (duration: Duration.Input): number => {
  const millis = Duration.toMillis(Duration.fromInputUnsafe(duration))
  if (millis >= 0 && Number.isFinite(millis)) return millis
  throw new Error("DatabaseClock: write a finite duration; the clock never goes back")
}

const make = Effect.gen(function*() {
  const config = yield* PostgresConfig.PostgresConfig
  const { schema } = config
  // A connection of its own: what it asks must not count as activity of the broker's pool, nor wait for it.
  const { client } = yield* SqlPool.make(config, {
    name: "clock",
    endpoint: config.session ?? config.database,
    size: { size: 0, overflow: 1 },
    transactionPool: false,
    prePing: true,
    limited: false,
    unprovenEnds: true
  })
  const database = fromClient(client, schema)

  yield* SchemaInitializer.initialize({ schema, migrate: config.migrate }).pipe(
    Effect.provideService(SqlClient.SqlClient, client)
  )
  yield* brokerFailure(client.withTransaction(Effect.gen(function*() {
    yield* client.unsafe("select pg_advisory_xact_lock(hashtextextended('horsies_test', 0))")
    for (const statement of movableClock(schema)) yield* client.unsafe(statement)
  })))

  const now = Effect.map(database.run(nowStatement, []), ([row]) => row![0] as number)
  const move = (duration: Duration.Input) =>
    Effect.suspend(() => Effect.asVoid(database.run(moveStatement, [float(millisOf(duration))])))

  /** The database first: whoever is woken by `TestClock` finds that the time has come. */
  const pass = (millis: number) => move(millis).pipe(Effect.andThen(adjust(millis)), Effect.andThen(quiet(database)))

  const advance = Effect.fnUntraced(function*(duration: Duration.Input, options: AdvanceOptions = {}) {
    // Whoever is about to sleep must do so before time passes.
    yield* quiet(database)
    const total = millisOf(duration)
    const [row] = yield* database.run(shortestLeaseStatement(schema), [])
    const lease = row![0] as number | null
    const step = Math.max(1, options.step !== undefined ? millisOf(options.step) : lease === null ? total : lease / 6)
    if (options.step === undefined && total / step > manySteps) {
      yield* Effect.logWarning(
        `DatabaseClock.advance: ${Math.ceil(total / step)} steps, as a worker has a lease of ${lease} milliseconds; ` +
          "with a longer heartbeatInterval there would be fewer"
      )
    }
    for (let passed = 0; passed < total; passed += step) yield* pass(Math.min(step, total - passed))
    yield* pass(spread)
  })

  const start = yield* now
  yield* Clock.clockWith((clock) =>
    isTestClock(clock) && clock.currentTimeMillisUnsafe() < start ? clock.setTime(start) : Effect.void
  )
  return DatabaseClock.of({ now, move, advance })
})

/**
 * The clock of the database that the settings name. Build it before the broker: provide it to the broker's layer. The time
 * begins with the server's, or goes on where an earlier test of this database has left it.
 *
 * Fails with a `BrokerError` when the database cannot be reached, or the role may not change it.
 */
export const layer: Layer.Layer<DatabaseClock, BrokerError, PostgresConfig.PostgresConfig> = Layer.effect(
  DatabaseClock,
  make
).pipe(Layer.provide(Layer.fresh(Siblings.layer)), Layer.provide(Reactivity.layer))

/** `layer` with its settings from the environment, see `PostgresConfig`. */
export const layerConfig = Layer.provide(layer, PostgresConfig.layerConfig)

/**
 * Lets time pass: moves the database's clock, then `TestClock`, then waits until everything that was set off is done.
 * Three milliseconds more than given, because workers spread their looks over that time. Without `TestClock`, it moves the
 * database alone.
 *
 * Within one step, see `AdvanceOptions`, whatever needs the database happens when the step is over: a task whose second
 * attempt is due in the middle of the step of its first has it in the next step.
 *
 * Dies when the database does not come to rest: a statement that waits for a lock of the test itself, or a task that
 * sends itself for ever.
 *
 * @example
 * ```ts
 * yield* DatabaseClock.advance("1 hour")
 * yield* DatabaseClock.advance("1 day", { step: "1 hour" })
 * ```
 */
export const advance = (
  duration: Duration.Input,
  options?: AdvanceOptions
): Effect.Effect<void, BrokerError, DatabaseClock> => DatabaseClock.use((clock) => clock.advance(duration, options))

/** What the database's clock says: milliseconds since the epoch. */
export const now: Effect.Effect<number, BrokerError, DatabaseClock> = DatabaseClock.use((clock) => clock.now)
