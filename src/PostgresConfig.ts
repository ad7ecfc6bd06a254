/**
 * What an operator sets: where the database is and how the broker connects to it.
 *
 * Every setting can be given in code or read from the environment: `HORSIES_` and the name in upper snake case
 * (`HORSIES_POOL_SIZE`); `HORSIES_DATABASE_URL` falls back to `DATABASE_URL`. A bare number for a duration in the
 * environment means seconds. All problems are reported together, and no message ever contains a password.
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as PostgresUrl from "./PostgresUrl.ts"

/** The settings, as an operator gives them. Only `databaseUrl` is required. */
export interface Options {
  /** `postgresql://user:password@host:5432/database`; also `postgres://` and driver-suffixed schemes. For ordinary statements. */
  readonly databaseUrl: Redacted.Redacted<string>
  /** A direct, session-capable URL for schema set-up and LISTEN. Default: `databaseUrl`. */
  readonly sessionDatabaseUrl?: Redacted.Redacted<string> | undefined
  /**
   * `databaseUrl` is a transaction pool: no named statements and no session state on it. Schema set-up and LISTEN then
   * need a `sessionDatabaseUrl` of their own; without one, the schema must be there and results are polled for.
   * Default: `false`.
   */
  readonly pgbouncerTransactionMode?: boolean | undefined
  /** Connections that the general pool keeps. Default: 5. */
  readonly poolSize?: number | undefined
  /** Connections above `poolSize`, opened under load and closed again when it is gone. Default: 10. */
  readonly maxOverflow?: number | undefined
  /** Connections that a worker's pool keeps; `null` for `poolSize`. Default: 3. */
  readonly workerPoolSize?: number | null | undefined
  /** The overflow of a worker's pool; `null` for `maxOverflow`. Default: 2. */
  readonly workerMaxOverflow?: number | null | undefined
  /** Connections that each child process keeps while idle. Default: 0. */
  readonly workerChildPoolMinSize?: number | undefined
  /** The most connections of one child process. Default: 2. */
  readonly workerChildPoolMaxSize?: number | undefined
  /** Whether a child's connection is checked when it is taken from the pool. Default: `true`. */
  readonly workerChildPoolCheck?: boolean | undefined
  /** The most connections of transactional handlers, each of which takes one while it runs. Default: 10, none while idle. */
  readonly transactionalPoolSize?: number | undefined
  /** The longest wait for a connection; the statement that follows has the time it needs. Default: 30 seconds. */
  readonly poolTimeout?: Duration.Input | undefined
  /** Whether an idle connection is proven alive before it is handed out. Default: `true`. */
  readonly poolPrePing?: boolean | undefined
  /** A connection older than this is closed and opened again when it is next taken. Default: 30 minutes. */
  readonly poolRecycle?: Duration.Input | undefined
  /** TCP keepalives on every connection. Default: `true`. */
  readonly tcpKeepalives?: boolean | undefined
  /** Idle time before the first keepalive probe. Default: 30 seconds. */
  readonly tcpKeepalivesIdle?: Duration.Input | undefined
  /** Time between keepalive probes. Default: 10 seconds. */
  readonly tcpKeepalivesInterval?: Duration.Input | undefined
  /** Unanswered probes before a connection counts as dead. Default: 3. */
  readonly tcpKeepalivesCount?: number | undefined
  /** Log every statement with its duration, never its parameters. Default: `false`. */
  readonly echo?: boolean | undefined
  /** The PostgreSQL schema that holds the tables. Default: `public`. */
  readonly schema?: string | undefined
  /** The `application_name` of every connection. Default: `effect-horsies`. */
  readonly applicationName?: string | undefined
  /** The longest time to open a connection. Default: 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /**
   * The longest time for one statement. Default: the keepalive bound (idle + interval × count) for the broker's own, none
   * for the application's, which may take as long as the server can be seen to work on them. Where nobody can tell, they
   * have the keepalive bound, too, unless this is set: in a child process all of whose connections are busy, and through
   * a transaction pool when neither the session's connection nor another one of the pool sees the statement in
   * `pg_stat_activity`. To be seen it has to run on the server of the session URL, for the same role or one that
   * `pg_read_all_stats` covers; one that waits in the pooler for its turn does not run yet.
   */
  readonly statementTimeout?: Duration.Input | undefined
  /** The longest wait for a lock; in a transaction pool, of statements in transactions. Default: none. */
  readonly lockTimeout?: Duration.Input | undefined
  /** How to encrypt, over the `sslmode` of the URLs. */
  readonly ssl?: PostgresUrl.SslMode | undefined
  /** How long ended tasks are kept whose definitions say nothing else. Default: 7 days. */
  readonly retention?: Duration.Input | undefined
  /** Whether to create or migrate the schema at start. When `false`, a missing or older schema is an error. Default: `true`. */
  readonly migrate?: boolean | undefined
}

/** Stable codes of what can be wrong. */
export const ProblemCode = Schema.Literals([
  "URL",
  "COUNT",
  "DURATION",
  "FLAG",
  "SSL_MODE",
  "NAME",
  "MIN_ABOVE_MAX",
  "SESSION_URL_SAME"
])

/** One thing that is wrong with the settings. */
export const Problem = Schema.Struct({
  field: Schema.String,
  code: ProblemCode,
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

/** How many connections a pool keeps, and how many more it may open. */
export interface PoolSize {
  readonly size: number
  readonly overflow: number
}

/** How a dead peer is noticed. */
export interface Keepalives {
  /** Milliseconds. */
  readonly idle: number
  /** Milliseconds. */
  readonly interval: number
  readonly count: number
}

/** The settings, checked and complete. */
export class PostgresConfig extends Context.Service<PostgresConfig, {
  readonly database: PostgresUrl.Endpoint
  /** Where sessions go; none when there is only a transaction pool. */
  readonly session: PostgresUrl.Endpoint | undefined
  readonly pgbouncerTransactionMode: boolean
  readonly pools: { readonly general: PoolSize; readonly worker: PoolSize; readonly child: PoolSize }
  readonly childPoolCheck: boolean
  readonly transactionalPoolSize: number
  readonly poolTimeout: Duration.Duration
  readonly poolPrePing: boolean
  readonly poolRecycle: Duration.Duration
  readonly keepalives: Keepalives | undefined
  /** Within this time a dead connection is noticed, by keepalives or by other means. */
  readonly deadPeerBound: Duration.Duration
  readonly echo: boolean
  readonly schema: string
  readonly applicationName: string
  readonly connectTimeout: Duration.Duration
  readonly statementTimeout: Duration.Duration | undefined
  readonly lockTimeout: Duration.Duration | undefined
  readonly retention: Duration.Duration
  readonly migrate: boolean
}>()("effect-horsies/PostgresConfig") {}

const defaultSchema = "public"
const defaultRetention: Duration.Input = "7 days"

/** The most that PostgreSQL takes for a limit: 24 days. */
const mostMillis = 2_147_483_647

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

/** Checks how long ended tasks are kept; 7 days when nothing is said. */
export const retention = (
  given: Duration.Input = defaultRetention
): Effect.Effect<Duration.Duration, PostgresConfigError> => {
  const check = new Checker()
  const duration = check.duration("retention", given)
  return check.problems.length === 0 ? Effect.succeed(duration) : Effect.fail(refuseAll(check.problems))
}

/** Collects what is wrong, so that all of it can be reported together. */
class Checker {
  readonly problems: Array<Problem> = []

  refuse(field: keyof Options, code: Problem["code"], message: string) {
    this.problems.push({ field, code, message })
  }

  count(field: keyof Options, value: number, least: number): number {
    if (!Number.isSafeInteger(value) || value < least) {
      this.refuse(field, "COUNT", `write a whole number of at least ${least} (found ${value})`)
    }
    return value
  }

  /** What comes from the environment, or from JavaScript, may be anything. */
  flag(field: keyof Options, value: boolean): boolean {
    if (typeof value !== "boolean") {
      this.refuse(field, "FLAG", `write true or false (found ${JSON.stringify(value)})`)
    }
    return value
  }

  sslMode(mode: PostgresUrl.SslMode | undefined): PostgresUrl.SslMode | undefined {
    if (mode === undefined || PostgresUrl.sslModes.includes(mode)) return mode
    this.refuse("ssl", "SSL_MODE", `write one of ${PostgresUrl.sslModes.join(", ")} (found ${JSON.stringify(mode)})`)
    return undefined
  }

  /** A duration that PostgreSQL can count in milliseconds. */
  limit(field: "statementTimeout" | "lockTimeout", value: Duration.Input): Duration.Duration {
    const duration = this.duration(field, value)
    if (Duration.toMillis(duration) > mostMillis) {
      this.refuse(field, "DURATION", `write a duration of at most ${mostMillis} milliseconds, or none at all`)
    }
    return duration
  }

  /** A positive duration, of so many milliseconds at least. */
  duration(field: keyof Options, value: Duration.Input, least = 1): Duration.Duration {
    const duration = Option.getOrUndefined(Duration.fromInput(value))
    if (duration === undefined || !(Duration.toMillis(duration) >= least) || !Duration.isFinite(duration)) {
      this.refuse(field, "DURATION", `write a duration of at least ${least / 1000} seconds, such as "30 seconds"`)
      return Duration.zero
    }
    return duration
  }

  endpoint(field: keyof Options, url: Redacted.Redacted<string>, ssl: PostgresUrl.SslMode | undefined) {
    const parsed = PostgresUrl.parse(url)
    if (Result.isFailure(parsed)) {
      this.refuse(field, "URL", parsed.failure)
      return undefined
    }
    return ssl === undefined ? parsed.success : { ...parsed.success, sslMode: ssl }
  }
}

const sameServer = (a: PostgresUrl.Endpoint, b: PostgresUrl.Endpoint) =>
  a.database === b.database && JSON.stringify(a.hosts) === JSON.stringify(b.hosts)

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
  const check = new Checker()
  const pgbouncerTransactionMode = check.flag("pgbouncerTransactionMode", options.pgbouncerTransactionMode ?? false)
  const ssl = check.sslMode(options.ssl)
  const database = check.endpoint("databaseUrl", options.databaseUrl, ssl)
  const ownSession = options.sessionDatabaseUrl === undefined
    ? undefined
    : check.endpoint("sessionDatabaseUrl", options.sessionDatabaseUrl, ssl)
  if (
    pgbouncerTransactionMode && database !== undefined && ownSession !== undefined && sameServer(database, ownSession)
  ) {
    check.refuse(
      "sessionDatabaseUrl",
      "SESSION_URL_SAME",
      "it leads to the transaction pool of databaseUrl; write the URL of the server itself"
    )
  }

  const general = {
    size: check.count("poolSize", options.poolSize ?? 5, 1),
    overflow: check.count("maxOverflow", options.maxOverflow ?? 10, 0)
  }
  const inherit = (value: number | null | undefined, byDefault: number, inherited: number) =>
    value === null ? inherited : value ?? byDefault
  const worker = {
    size: check.count("workerPoolSize", inherit(options.workerPoolSize, 3, general.size), 1),
    overflow: check.count("workerMaxOverflow", inherit(options.workerMaxOverflow, 2, general.overflow), 0)
  }
  const childMost = check.count("workerChildPoolMaxSize", options.workerChildPoolMaxSize ?? 2, 1)
  const childLeast = check.count("workerChildPoolMinSize", options.workerChildPoolMinSize ?? 0, 0)
  if (childLeast > childMost) {
    check.refuse(
      "workerChildPoolMinSize",
      "MIN_ABOVE_MAX",
      `write at most workerChildPoolMaxSize, which is ${childMost} (found ${childLeast})`
    )
  }

  const idle = check.duration("tcpKeepalivesIdle", options.tcpKeepalivesIdle ?? "30 seconds", 1000)
  const interval = check.duration("tcpKeepalivesInterval", options.tcpKeepalivesInterval ?? "10 seconds", 1000)
  const count = check.count("tcpKeepalivesCount", options.tcpKeepalivesCount ?? 3, 1)
  const keepalives = { idle: Duration.toMillis(idle), interval: Duration.toMillis(interval), count }
  const schema = options.schema ?? defaultSchema
  check.problems.push(...schemaProblems(schema))
  const optional = (field: "statementTimeout" | "lockTimeout") => {
    const value = options[field]
    return value === undefined ? undefined : check.limit(field, value)
  }
  const complete = {
    pgbouncerTransactionMode,
    session: ownSession ?? (pgbouncerTransactionMode ? undefined : database),
    pools: { general, worker, child: { size: childLeast, overflow: childMost - childLeast } },
    childPoolCheck: check.flag("workerChildPoolCheck", options.workerChildPoolCheck ?? true),
    transactionalPoolSize: check.count("transactionalPoolSize", options.transactionalPoolSize ?? 10, 1),
    poolTimeout: check.duration("poolTimeout", options.poolTimeout ?? "30 seconds"),
    poolPrePing: check.flag("poolPrePing", options.poolPrePing ?? true),
    poolRecycle: check.duration("poolRecycle", options.poolRecycle ?? "1800 seconds"),
    keepalives: check.flag("tcpKeepalives", options.tcpKeepalives ?? true) ? keepalives : undefined,
    deadPeerBound: Duration.millis(keepalives.idle + keepalives.interval * keepalives.count),
    echo: check.flag("echo", options.echo ?? false),
    schema,
    applicationName: options.applicationName ?? "effect-horsies",
    connectTimeout: check.duration("connectTimeout", options.connectTimeout ?? "5 seconds"),
    statementTimeout: optional("statementTimeout"),
    lockTimeout: optional("lockTimeout"),
    retention: check.duration("retention", options.retention ?? defaultRetention),
    migrate: check.flag("migrate", options.migrate ?? true)
  }
  return database === undefined || check.problems.length > 0
    ? yield* refuseAll(check.problems)
    : { ...complete, database }
})

/** A bare number means seconds. */
const seconds = (name: string) =>
  Config.map(
    Config.String(name),
    (text): Duration.Input => /^\s*\d+(\.\d+)?\s*$/.test(text) ? Duration.seconds(Number(text)) : text as Duration.Input
  )

/** What is no number is passed on as such, so that it is reported together with everything else that is wrong. */
const number = (name: string) =>
  Config.map(Config.String(name), (text) => text.trim() === "" ? Number.NaN : Number(text))

/** A number, or `null` to inherit. */
const inheritable = (name: string) =>
  Config.map(
    Config.String(name),
    (text) => text.trim() === "" ? Number.NaN : text.trim().toLowerCase() === "null" ? null : Number(text)
  )

const words = new Map([
  ...["true", "yes", "on", "1", "y"].map((word): [string, boolean] => [word, true]),
  ...["false", "no", "off", "0", "n"].map((word): [string, boolean] => [word, false])
])

/** What is neither true nor false is passed on, too. */
const flag = (name: string) =>
  Config.map(Config.String(name), (text) => words.get(text.trim().toLowerCase()) ?? text as never)

const optional = <A>(self: Config.Config<A>) => Config.map(Config.option(self), Option.getOrUndefined)

/** Reads the settings from the environment. */
export const config: Config.Config<Options> = Config.all({
  // A missing one is reported together with everything else that is wrong.
  databaseUrl: Config.orElse(Config.Redacted("HORSIES_DATABASE_URL"), () => Config.Redacted("DATABASE_URL")).pipe(
    Config.withDefault(Redacted.make(""))
  ),
  sessionDatabaseUrl: optional(Config.Redacted("HORSIES_SESSION_DATABASE_URL")),
  pgbouncerTransactionMode: optional(flag("HORSIES_PGBOUNCER_TRANSACTION_MODE")),
  poolSize: optional(number("HORSIES_POOL_SIZE")),
  maxOverflow: optional(number("HORSIES_MAX_OVERFLOW")),
  workerPoolSize: optional(inheritable("HORSIES_WORKER_POOL_SIZE")),
  workerMaxOverflow: optional(inheritable("HORSIES_WORKER_MAX_OVERFLOW")),
  workerChildPoolMinSize: optional(number("HORSIES_WORKER_CHILD_POOL_MIN_SIZE")),
  workerChildPoolMaxSize: optional(number("HORSIES_WORKER_CHILD_POOL_MAX_SIZE")),
  workerChildPoolCheck: optional(flag("HORSIES_WORKER_CHILD_POOL_CHECK")),
  transactionalPoolSize: optional(number("HORSIES_TRANSACTIONAL_POOL_SIZE")),
  poolTimeout: optional(seconds("HORSIES_POOL_TIMEOUT")),
  poolPrePing: optional(flag("HORSIES_POOL_PRE_PING")),
  poolRecycle: optional(seconds("HORSIES_POOL_RECYCLE")),
  tcpKeepalives: optional(flag("HORSIES_TCP_KEEPALIVES")),
  tcpKeepalivesIdle: optional(seconds("HORSIES_TCP_KEEPALIVES_IDLE")),
  tcpKeepalivesInterval: optional(seconds("HORSIES_TCP_KEEPALIVES_INTERVAL")),
  tcpKeepalivesCount: optional(number("HORSIES_TCP_KEEPALIVES_COUNT")),
  echo: optional(flag("HORSIES_ECHO")),
  schema: optional(Config.String("HORSIES_SCHEMA")),
  applicationName: optional(Config.String("HORSIES_APPLICATION_NAME")),
  connectTimeout: optional(seconds("HORSIES_CONNECT_TIMEOUT")),
  statementTimeout: optional(seconds("HORSIES_STATEMENT_TIMEOUT")),
  lockTimeout: optional(seconds("HORSIES_LOCK_TIMEOUT")),
  retention: optional(seconds("HORSIES_RETENTION")),
  ssl: optional(Config.map(Config.String("HORSIES_SSL"), (text) => text as PostgresUrl.SslMode)),
  migrate: optional(flag("HORSIES_MIGRATE"))
})

/** The settings given in code. */
export const layer = (options: Options): Layer.Layer<PostgresConfig, PostgresConfigError> =>
  Layer.effect(PostgresConfig, make(options))

/** The settings from the environment. */
export const layerConfig: Layer.Layer<PostgresConfig, PostgresConfigError | Config.ConfigError> = Layer.effect(
  PostgresConfig,
  Effect.gen(function*() {
    return yield* make(yield* config)
  })
)

/**
 * The most connections that a worker takes: its pool, two sessions (one listens, one beats and migrates), and the pools
 * of its child processes. What task code opens itself comes on top: give it as `ofTasks`.
 *
 * @example
 * ```ts
 * PostgresConfig.connectionBudget(config, { processes: 8 }) // 3 + 2 + 2 + 8 × 2 = 23 with the defaults
 * ```
 */
export const connectionBudget = (
  config: PostgresConfig["Service"],
  worker: {
    /** Child processes; 0 when handlers run in the worker's own process. Default: 0. */
    readonly processes?: number | undefined
    /** Connections of the pool for transactional handlers: `transactionalPoolSize` where there are any. Default: 0. */
    readonly transactional?: number | undefined
    /** Connections that task code opens itself. Default: 0. */
    readonly ofTasks?: number | undefined
  } = {}
): number => {
  const { child, worker: own } = config.pools
  return own.size + own.overflow + 2 + (worker.processes ?? 0) * (child.size + child.overflow) +
    (worker.transactional ?? 0) + (worker.ofTasks ?? 0)
}
