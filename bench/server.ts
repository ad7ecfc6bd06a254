/** The server of a benchmark: durable, its own, gone afterwards. Every contestant gets a new database in every round. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as EmbeddedPostgres from "../src/EmbeddedPostgres.ts"

/**
 * As on a server of modest size. Checkpoints come where the benchmark asks for them, never during a measurement, and
 * the log's files are used again instead of being made anew.
 */
export const settings = {
  fsync: true,
  synchronous_commit: true,
  full_page_writes: true,
  shared_buffers: "1GB",
  min_wal_size: "2GB",
  max_wal_size: "8GB",
  checkpoint_timeout: "1h"
}

/** For a profile: what the server spent on each statement, also inside functions. */
const profiledSettings = {
  shared_preload_libraries: "pg_stat_statements",
  "pg_stat_statements.track": "all"
}

const Admin = Layer.unwrap(Effect.gen(function*() {
  const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
  return PgClient.layer({ url, maxConnections: 1 })
}))

/** The server, and a client in its database `postgres`. */
export const layer = (options: { readonly profiled: boolean }) =>
  Layer.provideMerge(
    Admin,
    EmbeddedPostgres.layer({ settings: options.profiled ? { ...settings, ...profiledSettings } : settings })
  )

export interface Database {
  readonly url: string
  /** One connection, open already. */
  readonly sql: PgClient.PgClient
}

/** A new database with a connection for the benchmark itself. It is dropped with the scope. */
export const database = Effect.fnUntraced(function*(name: string) {
  const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
  const admin = yield* PgClient.PgClient
  // Some pools say that they have ended while their connections are still closing, and fall over when these are cut.
  const deserted = admin`select 1 from pg_stat_activity where datname = ${name}`.pipe(
    Effect.repeat({ until: (sessions) => sessions.length === 0, schedule: Schedule.spaced("10 millis") }),
    Effect.timeoutOption("5 seconds")
  )
  yield* Effect.acquireRelease(
    admin`create database ${admin(name)}`,
    // After a failure nothing follows, and the server takes it along.
    (_, exit) =>
      Exit.isSuccess(exit)
        ? Effect.ignore(Effect.andThen(deserted, admin`drop database ${admin(name)} with (force)`))
        : Effect.void
  )
  const own = new URL(Redacted.value(url))
  own.pathname = `/${name}`
  const client = yield* Layer.build(PgClient.layer({ url: Redacted.make(own.href), maxConnections: 1 }))
  const sql = yield* Effect.provideContext(PgClient.PgClient, client)
  yield* sql`select 1`
  return { url: own.href, sql }
})
