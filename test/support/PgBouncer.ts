/** A real PgBouncer, Debian's, in front of a server. */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { randomInt } from "node:crypto"
import { existsSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { makeFolder } from "../../src/embedded/dataDirectory.ts"
import * as Keeper from "../../src/embedded/keeper.ts"
import * as Programs from "../../src/embedded/programs.ts"
import { serverUser } from "../../src/embedded/user.ts"
import { TestDatabase } from "./TestDatabase.ts"

export interface Options {
  /** How long a client keeps the server connection that it was given. */
  readonly poolMode: "session" | "transaction" | "statement"
  /** Server connections for a user's work on a database. Default: PgBouncer's 20. */
  readonly poolSize?: number | undefined
  /** Further settings of PgBouncer. */
  readonly settings?: Readonly<Record<string, string | number>> | undefined
}

/** Attempts to find a free port. */
const portAttempts = 20

const program = Effect.sync(() => {
  const path = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map((folder) => join(folder, "pgbouncer")).find(existsSync)
  if (path === undefined) throw new Error("PgBouncer is not installed; run: apt-get install --yes pgbouncer")
  return path
})

const text = (server: URL, settings: Readonly<Record<string, string | number>>) =>
  [
    "[databases]",
    `* = host=${server.hostname} port=${server.port}`,
    "[pgbouncer]",
    ...Object.entries(settings).map(([name, value]) => `${name} = ${value}`),
    ""
  ].join("\n")

/** A PgBouncer that runs. */
export interface Pooler {
  /** The same user and database as the server's, through PgBouncer. */
  readonly url: Redacted.Redacted
  /** Kills it and starts another one in its place, on the same port. */
  readonly restart: Effect.Effect<void>
}

/** Starts PgBouncer before a server; it stops with the scope. */
export const make = (
  direct: Redacted.Redacted,
  options: Options
): Effect.Effect<Pooler, never, Scope.Scope> =>
  Effect.gen(function*() {
    const pgbouncer = yield* program
    // It refuses to run as root, as PostgreSQL does.
    const keeper = yield* Keeper.make(yield* serverUser)
    yield* makeFolder(keeper.folder, keeper.user)
    const server = new URL(Redacted.value(direct))
    const users = join(keeper.folder, "users.txt")
    writeFileSync(users, `"${decodeURIComponent(server.username)}" "${decodeURIComponent(server.password)}"\n`)
    const settings = join(keeper.folder, "pgbouncer.ini")
    let running: Programs.Program | undefined
    const kill = Effect.suspend(() => running === undefined ? Effect.void : Programs.end(running, []))
    yield* Effect.addFinalizer(() => kill)

    const start = Effect.fnUntraced(function*(port: number) {
      writeFileSync(
        settings,
        text(server, {
          listen_addr: "127.0.0.1",
          listen_port: port,
          unix_socket_dir: "",
          auth_type: "scram-sha-256",
          auth_file: users,
          pool_mode: options.poolMode,
          default_pool_size: options.poolSize ?? 20,
          ...options.settings
        })
      )
      const started = yield* Programs.spawn(keeper, pgbouncer, [settings])
      running = started
      const state = yield* Effect.sync(() => started.log().includes("process up") ? "up" : started.hasEnded()).pipe(
        Effect.repeat({ until: (state) => state !== false, schedule: Schedule.spaced("10 millis") }),
        Effect.timeout("10 seconds")
      )
      return state === "up" ? port : yield* Effect.fail(`PgBouncer does not start\n${started.log()}`)
    })
    const port = yield* Effect.suspend(() => start(randomInt(15_000, 32_000))).pipe(
      Effect.retry({ while: (failure) => String(failure).includes("Address already in use"), times: portAttempts })
    )
    const url = new URL(server)
    url.host = `127.0.0.1:${port}`
    return {
      url: Redacted.make(url.href),
      restart: Effect.andThen(kill, start(port)).pipe(Effect.orDie, Effect.asVoid, inRealTime)
    }
  }).pipe(Effect.orDie, inRealTime)

const inRealTime = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

/** PgBouncer in front of the test's database. */
export class PgBouncer extends Context.Service<PgBouncer, Pooler>()("effect-horsies/test/support/PgBouncer") {
  static readonly layer = (options: Options): Layer.Layer<PgBouncer, never, TestDatabase> =>
    Layer.effect(PgBouncer, Effect.flatMap(TestDatabase, ({ url }) => make(url, options)))
}
