/** Parts of the tests that put a proxy between the broker's own clients and the server. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import { randomBytes } from "node:crypto"
import type { BrokerError } from "../../src/Broker.ts"
import { fromSqlError } from "../../src/connection/failure.ts"
import * as PooledSql from "../../src/connection/PooledSql.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as FaultProxy from "../support/FaultProxy.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

/** A connection of the test's own, past every proxy: it sees what the server sees. */
export const observer: Layer.Layer<SqlClient | TestDatabase> = Layer.unwrap(
  Effect.map(TestDatabase, ({ url }) => PgClient.layer({ url, maxConnections: 2, applicationName: "observer" }))
).pipe(
  Layer.provideMerge(TestDatabase.layer),
  // Every test here loses connections on purpose.
  Layer.provideMerge(Layer.succeed(References.MinimumLogLevel, "Error")),
  Layer.orDie
)

export type Settings = Partial<PostgresConfig.Options>

/** Notices a dead peer within three seconds. */
export const alert: Settings = {
  tcpKeepalivesIdle: "1 second",
  tcpKeepalivesInterval: "1 second",
  tcpKeepalivesCount: 2
}

/** A proxy before the test's database, and settings that lead through it under an application name of their own. */
export const make = Effect.fnUntraced(function*(settings: Settings = {}) {
  const { url } = yield* TestDatabase
  const proxy = yield* FaultProxy.make(url)
  const applicationName = `proxied_${randomBytes(4).toString("hex")}`
  const options = { databaseUrl: proxy.through(url), applicationName, ...settings }
  return { proxy, options, applicationName }
})

/** The same with a pool. */
export const makePool = Effect.fnUntraced(function*(settings: Settings = {}) {
  const { applicationName, options, proxy } = yield* make(settings)
  const { sql, stats } = yield* poolOf(options)
  return { proxy, sql, stats, applicationName }
})

/** A pool over settings. */
export const poolOf = Effect.fnUntraced(function*(options: PostgresConfig.Options) {
  const context = yield* Layer.build(
    Layer.fresh(Layer.provide(PooledSql.layer, PostgresConfig.layer(options)))
  )
  return { sql: Context.get(context, SqlClient), stats: Context.get(context, PooledSql.PoolStats).get }
}) satisfies (options: PostgresConfig.Options) => Effect.Effect<unknown, unknown, Scope.Scope>

/** Looks again and again until it holds, in real time; dies with `what` when it does not in time. */
export const until = <E, R>(what: string, look: Effect.Effect<boolean, E, R>, within: Duration.Input = "15 seconds") =>
  Effect.repeat(look, { until: (holds) => holds, schedule: Schedule.spaced("10 millis") }).pipe(
    Effect.timeoutOrElse({
      duration: within,
      orElse: () => Effect.die(new Error(`not within ${Duration.format(Duration.fromInputUnsafe(within))}: ${what}`))
    }),
    Effect.asVoid
  )

/** How long an effect takes, in milliseconds, and how it ends. */
export const timed = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const startedAt = performance.now()
    return Effect.map(Effect.exit(self), (exit) => ({ exit, millis: performance.now() - startedAt }))
  })

/** The broker's error for a failed statement. */
export const brokerErrorOf = <A, E>(exit: Exit.Exit<A, E | SqlError>): BrokerError => {
  const failure = exit._tag === "Failure" ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined
  if (!isSqlError(failure)) throw new Error(`not a SqlError: ${String(exit)}`)
  return fromSqlError(failure)
}

/** How many sessions of this application name the server has. */
export const sessions = Effect.fnUntraced(function*(applicationName: string) {
  const sql = yield* SqlClient
  const [row] = yield* sql<{ readonly count: number }>`
    select count(*)::int as count from pg_stat_activity where application_name = ${applicationName}`
  return row!.count
})

/** Waits until all sessions of this application name have been idle for longer than any is handed out unasked. */
export const idle = Effect.fnUntraced(function*(applicationName: string) {
  const sql = yield* SqlClient
  yield* until(
    "all sessions are idle",
    Effect.map(
      sql<{ readonly idle: boolean | null }>`
        select bool_and(state = 'idle' and state_change < clock_timestamp() - interval '1100 milliseconds') as idle
        from pg_stat_activity where application_name = ${applicationName}`,
      ([row]) => row!.idle === true
    )
  )
})
