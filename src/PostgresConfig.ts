/**
 * What an operator sets: where the database is and how the broker connects to it.
 *
 * Every setting can be given in code or read from the environment: `HORSIES_` and the name in upper snake case
 * (`HORSIES_POOL_SIZE`); `HORSIES_DATABASE_URL` falls back to `DATABASE_URL`. A bare number for a duration in the
 * environment means seconds. All problems are reported together, and no message ever contains a password.
 */
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as PostgresUrl from "./PostgresUrl.ts"

/** The settings, as an operator gives them. Only `databaseUrl` is required. */
export interface Options {
  /** `postgresql://user:password@host:5432/database`; also `postgres://` and driver-suffixed schemes. */
  readonly databaseUrl: Redacted.Redacted<string>
  /** A direct, session-capable URL for schema set-up and LISTEN. Default: `databaseUrl`. */
  readonly sessionDatabaseUrl?: Redacted.Redacted<string> | undefined
  /** `databaseUrl` is a transaction pool: no named statements and no session state on it. Default: `false`. */
  readonly pgbouncerTransactionMode?: boolean | undefined
  /** Connections that the pool keeps. Default: 5. */
  readonly poolSize?: number | undefined
  /** Connections above `poolSize`, opened under load. Default: 10. */
  readonly maxOverflow?: number | undefined
  /** The PostgreSQL schema that holds the tables. Default: `public`. */
  readonly schema?: string | undefined
  /** The `application_name` of every connection. Default: `effect-horsies`. */
  readonly applicationName?: string | undefined
  /** The longest time to open a connection. Default: 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** Whether to create or migrate the schema at start. When `false`, a missing or older schema is an error. Default: `true`. */
  readonly migrate?: boolean | undefined
}

/** One thing that is wrong with the settings. */
export const Problem = Schema.Struct({
  field: Schema.String,
  /** Stable, for programs. */
  code: Schema.String,
  /** What is wrong and what to write instead. */
  message: Schema.String
})

/** One thing that is wrong with the settings. */
export type Problem = typeof Problem.Type

/** The settings are not usable. Names every problem, never a secret. */
export class PostgresConfigError extends Schema.TaggedError<PostgresConfigError>()("PostgresConfigError", {
  problems: Schema.NonEmptyArray(Problem)
}) {
  override get message(): string {
    return this.problems.map((problem) => `${problem.field}: ${problem.message}`).join("; ")
  }
}

/** The settings, checked and complete. */
export class PostgresConfig extends Context.Service<PostgresConfig, {
  readonly database: PostgresUrl.Endpoint
  readonly session: PostgresUrl.Endpoint
  readonly pgbouncerTransactionMode: boolean
  readonly poolSize: number
  readonly maxOverflow: number
  readonly schema: string
  readonly applicationName: string
  readonly connectTimeout: Duration.Duration
  readonly migrate: boolean
}>()("effect-horsies/PostgresConfig") {}

const defaultSchema = "public"

/** Plain names only: they go into statements as they are. */
const schemaProblems = (schema: string): ReadonlyArray<Problem> =>
  /^[a-z_][a-z0-9_]{0,62}$/.test(schema) ? [] : [{
    field: "schema",
    code: "NAME",
    message: `write lower-case letters, digits and underscores, at most 63 (found ${JSON.stringify(schema)})`
  }]

const refuseAll = (problems: ReadonlyArray<Problem>) => {
  const [first, ...rest] = problems
  return new PostgresConfigError({ problems: [first!, ...rest] })
}

/** Checks the name of a PostgreSQL schema; `public` when there is none. */
export const schemaName = (schema: string = defaultSchema): Effect.Effect<string, PostgresConfigError> => {
  const problems = schemaProblems(schema)
  return problems.length === 0 ? Effect.succeed(schema) : Effect.fail(refuseAll(problems))
}

/**
 * Checks settings and fills in the defaults.
 *
 * @example
 * ```ts
 * import { PostgresConfig } from "effect-horsies"
 * import { Redacted } from "effect"
 *
 * const config = PostgresConfig.make({
 *   databaseUrl: Redacted.make("postgresql://app:secret@localhost/app"),
 *   poolSize: 10
 * })
 * ```
 */
export const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<PostgresConfig["Service"], PostgresConfigError> {
  const problems: Array<Problem> = []
  const refuse = (field: string, code: string, message: string) => {
    problems.push({ field, code, message })
  }
  const endpoint = (field: string, url: Redacted.Redacted<string>) =>
    Result.getOrElse(PostgresUrl.parse(url), (reason) => {
      refuse(field, "URL", reason)
      return undefined
    })
  const count = (field: string, value: number, least: number) => {
    if (!Number.isInteger(value) || value < least) {
      refuse(field, "COUNT", `${value} is not a count; write a whole number of at least ${least}`)
    }
    return value
  }

  const pgbouncerTransactionMode = options.pgbouncerTransactionMode ?? false
  const database = endpoint("databaseUrl", options.databaseUrl)
  const session = options.sessionDatabaseUrl === undefined
    ? database
    : endpoint("sessionDatabaseUrl", options.sessionDatabaseUrl)
  const poolSize = count("poolSize", options.poolSize ?? 5, 1)
  const maxOverflow = count("maxOverflow", options.maxOverflow ?? 10, 0)
  const schema = options.schema ?? "public"
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(schema)) {
    refuse(
      "schema",
      "NAME",
      `write lower-case letters, digits and underscores, at most 63 (found ${JSON.stringify(schema)})`
    )
  }
  const connectTimeout = Duration.fromInput(options.connectTimeout ?? "5 seconds")
  if (Option.isNone(connectTimeout) || !Duration.isPositive(connectTimeout.value)) {
    refuse("connectTimeout", "DURATION", `write a positive duration such as "5 seconds"`)
  }

  if (
    problems.length > 0 || database === undefined || session === undefined || Option.isNone(connectTimeout)
  ) {
    return yield* refuseAll(problems)
  }
  return {
    database,
    session,
    pgbouncerTransactionMode,
    poolSize,
    maxOverflow,
    schema,
    applicationName: options.applicationName ?? "effect-horsies",
    connectTimeout: connectTimeout.value,
    migrate: options.migrate ?? true
  }
})

const seconds = (name: string) =>
  Config.map(
    Config.String(name),
    (text): Duration.Input => /^\s*\d+(\.\d+)?\s*$/.test(text) ? Duration.seconds(Number(text)) : text as Duration.Input
  )

const optional = <A>(self: Config.Config<A>) => Config.map(Config.option(self), Option.getOrUndefined)

/** Reads the settings from the environment. */
export const config: Config.Config<Options> = Config.all({
  databaseUrl: Config.orElse(
    Config.Redacted("HORSIES_DATABASE_URL"),
    () => Config.Redacted("DATABASE_URL")
  ),
  sessionDatabaseUrl: optional(Config.Redacted("HORSIES_SESSION_DATABASE_URL")),
  pgbouncerTransactionMode: optional(Config.Boolean("HORSIES_PGBOUNCER_TRANSACTION_MODE")),
  poolSize: optional(Config.Int("HORSIES_POOL_SIZE")),
  maxOverflow: optional(Config.Int("HORSIES_MAX_OVERFLOW")),
  schema: optional(Config.String("HORSIES_SCHEMA")),
  applicationName: optional(Config.String("HORSIES_APPLICATION_NAME")),
  connectTimeout: optional(seconds("HORSIES_CONNECT_TIMEOUT")),
  migrate: optional(Config.Boolean("HORSIES_MIGRATE"))
})

/** The settings given in code. */
export const layer = (options: Options): Layer.Layer<PostgresConfig, PostgresConfigError> =>
  Layer.effect(PostgresConfig, make(options))

/** The settings from the environment. */
export const layerConfig: Layer.Layer<PostgresConfig, PostgresConfigError | Config.ConfigError> = Layer.effect(
  PostgresConfig,
  Effect.gen(function*() {
    const provider = yield* ConfigProvider.ConfigProvider
    return yield* make(yield* config.parse(provider))
  })
)
