import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import { inspect } from "node:util"
import * as PostgresConfig from "../../src/PostgresConfig.ts"

const secret = "hunter2"
const databaseUrl = Redacted.make(`postgresql://app:${secret}@localhost/app`)

const problemsOf = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(self), (error) => {
    if (!(error instanceof PostgresConfig.PostgresConfigError)) throw new Error(`not a PostgresConfigError: ${error}`)
    return error.problems
  })

const fieldsAndCodes = (problems: ReadonlyArray<PostgresConfig.Problem>) =>
  problems.map(({ code, field }) => `${field} ${code}`)

/** Everything wrong that can be wrong at once. */
const everything = [
  "databaseUrl URL",
  "lockTimeout DURATION",
  "maxOverflow COUNT",
  "migrate FLAG",
  "poolPrePing FLAG",
  "poolRecycle DURATION",
  "poolSize COUNT",
  "poolTimeout DURATION",
  "schema NAME",
  "sessionDatabaseUrl URL",
  "ssl SSL_MODE",
  "statementTimeout DURATION",
  "tcpKeepalivesCount COUNT",
  "tcpKeepalivesIdle DURATION",
  "tcpKeepalivesInterval DURATION",
  "connectTimeout DURATION",
  "echo FLAG",
  "pgbouncerTransactionMode FLAG",
  "tcpKeepalives FLAG",
  "workerChildPoolCheck FLAG",
  "workerChildPoolMaxSize COUNT",
  "workerChildPoolMinSize COUNT",
  "workerMaxOverflow COUNT",
  "workerPoolSize COUNT"
]

const wrong = {
  databaseUrl: Redacted.make(`mysql://app:${secret}@localhost/app`),
  sessionDatabaseUrl: Redacted.make(`postgresql://app:${secret}@localhost:x/app`),
  pgbouncerTransactionMode: "perhaps" as never,
  poolSize: 0,
  maxOverflow: -1,
  workerPoolSize: 1.5,
  workerMaxOverflow: Number.NaN,
  workerChildPoolMinSize: -1,
  workerChildPoolMaxSize: 0,
  workerChildPoolCheck: 1 as never,
  poolTimeout: 0,
  poolPrePing: "true" as never,
  poolRecycle: "-1 seconds",
  tcpKeepalives: "on" as never,
  tcpKeepalivesIdle: "500 millis",
  tcpKeepalivesInterval: 0,
  tcpKeepalivesCount: 0,
  echo: "loud" as never,
  schema: "Robert'); drop table",
  connectTimeout: "Infinity",
  statementTimeout: "30 days",
  lockTimeout: "soon" as never,
  ssl: "on" as never,
  migrate: "later" as never
} satisfies PostgresConfig.Options

describe("what is wrong with the settings", () => {
  it.effect("in code is reported all at once", () =>
    Effect.gen(function*() {
      const problems = yield* problemsOf(PostgresConfig.make(wrong))
      // A minimum of -1 is not above a maximum of 0, so that there are no two problems with one field.
      assert.sameMembers(fieldsAndCodes(problems), everything)
      for (const { field, message } of problems) assert.match(message, /write|set/, field)
    }))

  it.effect("in the environment is reported all at once", () =>
    Effect.gen(function*() {
      const env = Object.fromEntries(
        Object.entries(wrong).map(([field, value]) => [
          `HORSIES_${field.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`,
          field === "workerChildPoolCheck" || field === "poolPrePing" || field === "tcpKeepalives"
            ? "perhaps"
            : Redacted.isRedacted(value)
            ? String(Redacted.value(value))
            : String(value)
        ])
      )
      const problems = yield* problemsOf(
        Effect.scoped(Layer.build(PostgresConfig.layerConfig)).pipe(
          Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(env)))
        )
      )
      assert.sameMembers(fieldsAndCodes(problems), everything)
    }))

  it.effect("says that nothing is set, where nothing is", () =>
    Effect.gen(function*() {
      const problems = yield* problemsOf(
        Effect.scoped(Layer.build(PostgresConfig.layerConfig)).pipe(
          Effect.provide(
            ConfigProvider.layer(ConfigProvider.fromEnvRecord({ HORSIES_POOL_SIZE: "", HORSIES_MAX_OVERFLOW: "x" }))
          )
        )
      )
      assert.sameMembers(fieldsAndCodes(problems), ["databaseUrl URL", "maxOverflow COUNT"])
      // An empty variable is one that is not set.
      assert.match(problems[0].message, /HORSIES_DATABASE_URL or DATABASE_URL/)
    }))

  it.effect("never shows a password, however it is printed", () =>
    Effect.gen(function*() {
      const exits = [
        yield* Effect.exit(PostgresConfig.make(wrong)),
        yield* Effect.exit(PostgresConfig.make({ databaseUrl }))
      ]
      const lines: Array<string> = []
      const logger = Logger.layer([
        Logger.make(({ cause, message }) => void lines.push(inspect([message, cause], { depth: 20 })))
      ])
      for (const exit of exits) {
        const value = Exit.isSuccess(exit) ? exit.value : Cause.squash(exit.cause)
        yield* Effect.provide(Effect.logError("settings", exit, value, wrong), logger)
        const shown = [
          String(value),
          JSON.stringify(value),
          JSON.stringify(wrong),
          inspect(value, { depth: 20, showHidden: true }),
          Exit.isSuccess(exit) ? "" : Cause.pretty(exit.cause),
          value instanceof Error ? `${value.message} ${value.stack}` : "",
          ...lines
        ]
        for (const text of shown) assert.notInclude(text, secret)
      }
      assert.strictEqual(lines.length, 2)
    }))
})

describe("the rules between settings", () => {
  const direct = Redacted.make(`postgresql://app:${secret}@localhost:6000/app`)

  it.effect("workerChildPoolMinSize is at most workerChildPoolMaxSize", () =>
    Effect.gen(function*() {
      const problems = yield* problemsOf(
        PostgresConfig.make({ databaseUrl, workerChildPoolMinSize: 3, workerChildPoolMaxSize: 2 })
      )
      assert.deepStrictEqual(fieldsAndCodes(problems), ["workerChildPoolMinSize MIN_ABOVE_MAX"])
      yield* PostgresConfig.make({ databaseUrl, workerChildPoolMinSize: 2, workerChildPoolMaxSize: 2 })
    }))

  it.effect("a transaction pool is no session: sessionDatabaseUrl leads elsewhere, or there is none", () =>
    Effect.gen(function*() {
      const mode = { databaseUrl, pgbouncerTransactionMode: true }
      for (const same of [databaseUrl, Redacted.make("postgres://other@localhost:5432/app?application_name=x")]) {
        const problems = yield* problemsOf(PostgresConfig.make({ ...mode, sessionDatabaseUrl: same }))
        assert.deepStrictEqual(fieldsAndCodes(problems), ["sessionDatabaseUrl SESSION_URL_SAME"])
      }
      assert.strictEqual(
        (yield* PostgresConfig.make({ ...mode, sessionDatabaseUrl: direct })).session?.hosts[0].port,
        6000
      )
      assert.isUndefined((yield* PostgresConfig.make(mode)).session)
      // Not inferred from anything: the same URLs without the mode are two ways to one server.
      assert.isDefined((yield* PostgresConfig.make({ databaseUrl, sessionDatabaseUrl: databaseUrl })).session)
    }))

  it.effect("the connection budget is 7, and 23 with 8 processes; what tasks open comes on top", () =>
    Effect.gen(function*() {
      const config = yield* PostgresConfig.make({ databaseUrl })
      const { connectionBudget } = PostgresConfig
      assert.strictEqual(connectionBudget(config), 7)
      assert.strictEqual(connectionBudget(config, { processes: 8 }), 23)
      assert.strictEqual(connectionBudget(config, { processes: 8, transactional: 4, ofTasks: 10 }), 37)
      const other = yield* PostgresConfig.make({
        databaseUrl,
        poolSize: 6,
        workerPoolSize: null,
        workerMaxOverflow: 0,
        workerChildPoolMinSize: 1,
        workerChildPoolMaxSize: 3
      })
      assert.strictEqual(connectionBudget(other, { processes: 2 }), 6 + 0 + 2 + 2 * 3)
    }))
})
