/** Two servers: a primary, and a standby that follows it. Commits of the primary wait for the standby. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import { appendFileSync, chownSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { makeFolder } from "../../src/embedded/dataDirectory.ts"
import * as Keeper from "../../src/embedded/keeper.ts"
import { serverUser } from "../../src/embedded/user.ts"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"

/** One of the two. */
export interface Node extends EmbeddedPostgres.Server {
  /** Runs a statement as the superuser, over a connection of its own. */
  readonly query: (statement: string) => Effect.Effect<ReadonlyArray<Readonly<Record<string, unknown>>>>
  /** Looks again and again until a condition holds, for 15 seconds at most. */
  readonly until: (condition: string) => Effect.Effect<void>
  /** Kills its first process with SIGKILL, as the kernel would. The others find out by themselves. */
  readonly kill: Effect.Effect<void>
  /** Makes a standby the primary. */
  readonly promote: Effect.Effect<void>
  /** Makes a server that has stopped a standby of another one when it starts again. */
  readonly follow: (primary: EmbeddedPostgres.Server) => Effect.Effect<void>
}

export interface PrimaryStandby {
  readonly primary: Node
  readonly standby: Node
  /** Both, the first primary first; only the one that takes writes will do. */
  readonly url: Redacted.Redacted
}

const inRealTime = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

const dataOf = (server: { readonly directory: string }) => join(server.directory, "data")

const nodeOf = (server: EmbeddedPostgres.Server): Node => {
  const query = (statement: string) =>
    Effect.provide(
      PgClient.PgClient.use((sql) => sql.unsafe<Record<string, unknown>>(statement)),
      PgClient.layer({ url: server.url, maxConnections: 1 }),
      { local: true }
    ).pipe(Effect.orDie, inRealTime)
  return {
    ...server,
    query,
    until: (condition) =>
      query(`select (${condition}) as holds`).pipe(
        Effect.repeat({ until: ([row]) => row?.["holds"] === true, schedule: Schedule.spaced("20 millis") }),
        Effect.timeoutOrElse({
          duration: "15 seconds",
          orElse: () => Effect.die(new Error(`not within 15 seconds: ${condition}`))
        }),
        Effect.asVoid,
        inRealTime
      ),
    kill: Effect.sync(() => {
      process.kill(Number(readFileSync(join(dataOf(server), "postmaster.pid"), "utf8").split("\n")[0]), "SIGKILL")
    }),
    promote: query("select pg_promote(true, 15) as promoted").pipe(
      Effect.flatMap(([row]) =>
        row?.["promoted"] === true ? Effect.void : Effect.die(new Error("the standby was not promoted"))
      )
    ),
    follow: (primary) => Effect.sync(() => follow(dataOf(server), primary))
  }
}

/** What makes a server a standby. Later settings win over those of the server that the files are a copy of. */
const follow = (data: string, primary: EmbeddedPostgres.Server) => {
  const { password, port, username } = new URL(Redacted.value(primary.url))
  const settings = { host: "127.0.0.1", port, user: username, password, application_name: "standby" }
  const text = Object.entries(settings).map(([name, value]) => `${name}=${value}`).join(" ")
  appendFileSync(join(data, "postgresql.auto.conf"), `primary_conninfo = '${text}'\nsynchronous_standby_names = ''\n`)
  const signal = join(data, "standby.signal")
  writeFileSync(signal, "")
  const { gid, uid } = statSync(data)
  chownSync(signal, uid, gid)
}

/** Starts both; they stop with the scope. */
export const make: Effect.Effect<PrimaryStandby, EmbeddedPostgres.EmbeddedPostgresError, Scope.Scope> = Effect.gen(
  function*() {
    // Gone with the scope, and also when this process is killed.
    const { folder, user } = yield* Keeper.make(yield* serverUser)
    yield* makeFolder(folder, user)
    // A crash of a process is no crash of the system: what was written is there without a sync.
    const start = (name: string) =>
      EmbeddedPostgres.make({ directory: join(folder, name), settings: { fsync: false, max_connections: 100 } })
    yield* Effect.scoped(start("first"))
    // With owners and modes, which Node's own copy leaves behind.
    yield* Effect.sync(() => execFileSync("cp", ["-pR", join(folder, "first"), join(folder, "second")]))
    const primary = nodeOf(yield* start("first"))
    yield* Effect.sync(() => follow(join(folder, "second", "data"), primary))
    const standby = nodeOf(yield* start("second"))

    yield* primary.until("exists (select from pg_stat_replication where state = 'streaming')")
    yield* primary.query("alter system set synchronous_standby_names = '*'")
    yield* primary.query("select pg_reload_conf()")
    yield* primary.until("exists (select from pg_stat_replication where sync_state = 'sync')")

    const url = new URL(Redacted.value(primary.url))
    const hosts = [primary, standby].map(({ port }) => `127.0.0.1:${port}`).join(",")
    return {
      primary,
      standby,
      url: Redacted.make(
        `postgres://postgres:${url.password}@${hosts}/postgres?target_session_attrs=read-write`
      )
    }
  }
)
