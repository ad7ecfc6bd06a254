import { assert, describe, it } from "@effect/vitest"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as PostgresConfig from "../../src/PostgresConfig.ts"

type Settings = PostgresConfig.PostgresConfig["Service"]

const databaseUrl = Redacted.make("postgresql://app:s3cret@localhost/app")
const sessionDatabaseUrl = Redacted.make("postgresql://app:s3cret@localhost:6000/app")

/** Settings as they would be with these environment variables, and the database's. */
const fromEnvironment = (env: Record<string, string>) =>
  Layer.build(PostgresConfig.layerConfig).pipe(
    Effect.map((context) => context.mapUnsafe.get(PostgresConfig.PostgresConfig.key) as Settings),
    Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(env))),
    Effect.scoped
  )

const inEnvironment = { HORSIES_DATABASE_URL: Redacted.value(databaseUrl) }

/** Values as they compare: durations in milliseconds. */
const plain = (value: unknown) => Duration.isDuration(value) ? Duration.toMillis(value) : value

/** Each setting: how to give it in code and in the environment, and where it shows, with and without. */
const rows: ReadonlyArray<{
  readonly options: Partial<PostgresConfig.Options>
  readonly env: Record<string, string>
  readonly shows: (settings: Settings) => unknown
  readonly byDefault: unknown
  readonly given: unknown
}> = [
  {
    options: { sessionDatabaseUrl },
    env: { HORSIES_SESSION_DATABASE_URL: Redacted.value(sessionDatabaseUrl) },
    shows: ({ session }) => session?.hosts[0].port,
    byDefault: 5432,
    given: 6000
  },
  {
    options: { pgbouncerTransactionMode: true },
    env: { HORSIES_PGBOUNCER_TRANSACTION_MODE: "true" },
    shows: ({ pgbouncerTransactionMode, session }) => [pgbouncerTransactionMode, session === undefined],
    byDefault: [false, false],
    given: [true, true]
  },
  {
    options: { poolSize: 7 },
    env: { HORSIES_POOL_SIZE: "7" },
    shows: ({ pools }) => pools.general.size,
    byDefault: 5,
    given: 7
  },
  {
    options: { maxOverflow: 0 },
    env: { HORSIES_MAX_OVERFLOW: "0" },
    shows: ({ pools }) => pools.general.overflow,
    byDefault: 10,
    given: 0
  },
  {
    options: { workerPoolSize: 4 },
    env: { HORSIES_WORKER_POOL_SIZE: "4" },
    shows: ({ pools }) => pools.worker.size,
    byDefault: 3,
    given: 4
  },
  {
    options: { workerPoolSize: null },
    env: { HORSIES_WORKER_POOL_SIZE: "null" },
    shows: ({ pools }) => pools.worker.size,
    byDefault: 3,
    given: 5
  },
  {
    options: { workerMaxOverflow: 1 },
    env: { HORSIES_WORKER_MAX_OVERFLOW: "1" },
    shows: ({ pools }) => pools.worker.overflow,
    byDefault: 2,
    given: 1
  },
  {
    options: { workerMaxOverflow: null },
    env: { HORSIES_WORKER_MAX_OVERFLOW: "NULL" },
    shows: ({ pools }) => pools.worker.overflow,
    byDefault: 2,
    given: 10
  },
  {
    options: { workerChildPoolMinSize: 1 },
    env: { HORSIES_WORKER_CHILD_POOL_MIN_SIZE: "1" },
    shows: ({ pools }) => pools.child,
    byDefault: { size: 0, overflow: 2 },
    given: { size: 1, overflow: 1 }
  },
  {
    options: { workerChildPoolMaxSize: 4 },
    env: { HORSIES_WORKER_CHILD_POOL_MAX_SIZE: "4" },
    shows: ({ pools }) => pools.child,
    byDefault: { size: 0, overflow: 2 },
    given: { size: 0, overflow: 4 }
  },
  {
    options: { workerChildPoolCheck: false },
    env: { HORSIES_WORKER_CHILD_POOL_CHECK: "off" },
    shows: ({ childPoolCheck }) => childPoolCheck,
    byDefault: true,
    given: false
  },
  {
    options: { poolTimeout: "1.5 seconds" },
    env: { HORSIES_POOL_TIMEOUT: "1.5" },
    shows: ({ poolTimeout }) => poolTimeout,
    byDefault: 30_000,
    given: 1500
  },
  {
    options: { poolPrePing: false },
    env: { HORSIES_POOL_PRE_PING: "No" },
    shows: ({ poolPrePing }) => poolPrePing,
    byDefault: true,
    given: false
  },
  {
    options: { transactionalPoolSize: 4 },
    env: { HORSIES_TRANSACTIONAL_POOL_SIZE: "4" },
    shows: (config) => config.transactionalPoolSize,
    byDefault: 10,
    given: 4
  },
  {
    options: { retention: "1 day" },
    env: { HORSIES_RETENTION: "86400" },
    shows: ({ retention }) => retention,
    byDefault: 7 * 86_400_000,
    given: 86_400_000
  },
  {
    options: { poolRecycle: "1 hour" },
    env: { HORSIES_POOL_RECYCLE: "3600" },
    shows: ({ poolRecycle }) => poolRecycle,
    byDefault: 1_800_000,
    given: 3_600_000
  },
  {
    options: { tcpKeepalives: false },
    env: { HORSIES_TCP_KEEPALIVES: "0" },
    shows: ({ deadPeerBound, keepalives }) => [keepalives, plain(deadPeerBound)],
    byDefault: [{ idle: 30_000, interval: 10_000, count: 3 }, 60_000],
    given: [undefined, 60_000]
  },
  {
    options: { tcpKeepalivesIdle: "20 seconds" },
    env: { HORSIES_TCP_KEEPALIVES_IDLE: "20" },
    shows: ({ deadPeerBound, keepalives }) => [keepalives?.idle, plain(deadPeerBound)],
    byDefault: [30_000, 60_000],
    given: [20_000, 50_000]
  },
  {
    options: { tcpKeepalivesInterval: "5 seconds" },
    env: { HORSIES_TCP_KEEPALIVES_INTERVAL: "5 seconds" },
    shows: ({ deadPeerBound, keepalives }) => [keepalives?.interval, plain(deadPeerBound)],
    byDefault: [10_000, 60_000],
    given: [5000, 45_000]
  },
  {
    options: { tcpKeepalivesCount: 9 },
    env: { HORSIES_TCP_KEEPALIVES_COUNT: "9" },
    shows: ({ deadPeerBound, keepalives }) => [keepalives?.count, plain(deadPeerBound)],
    byDefault: [3, 60_000],
    given: [9, 120_000]
  },
  {
    options: { echo: true },
    env: { HORSIES_ECHO: "yes" },
    shows: ({ echo }) => echo,
    byDefault: false,
    given: true
  },
  {
    options: { schema: "jobs" },
    env: { HORSIES_SCHEMA: "jobs" },
    shows: ({ schema }) => schema,
    byDefault: "public",
    given: "jobs"
  },
  {
    options: { applicationName: "shop" },
    env: { HORSIES_APPLICATION_NAME: "shop" },
    shows: ({ applicationName }) => applicationName,
    byDefault: "effect-horsies",
    given: "shop"
  },
  {
    options: { connectTimeout: "2 seconds" },
    env: { HORSIES_CONNECT_TIMEOUT: "2" },
    shows: ({ connectTimeout }) => connectTimeout,
    byDefault: 5000,
    given: 2000
  },
  {
    options: { statementTimeout: "90 seconds" },
    env: { HORSIES_STATEMENT_TIMEOUT: " 90 " },
    shows: ({ statementTimeout }) => statementTimeout,
    byDefault: undefined,
    given: 90_000
  },
  {
    options: { lockTimeout: "250 millis" },
    env: { HORSIES_LOCK_TIMEOUT: "0.25" },
    shows: ({ lockTimeout }) => lockTimeout,
    byDefault: undefined,
    given: 250
  },
  {
    options: { ssl: "verify-full" },
    env: { HORSIES_SSL: "verify-full" },
    shows: ({ database, session }) => [database.sslMode, session?.sslMode],
    byDefault: ["prefer", "prefer"],
    given: ["verify-full", "verify-full"]
  },
  {
    options: { migrate: false },
    env: { HORSIES_MIGRATE: "n" },
    shows: ({ migrate }) => migrate,
    byDefault: true,
    given: false
  }
]

describe("a setting", () => {
  for (const { byDefault, env, given, options, shows } of rows) {
    it.effect(`given as ${Object.entries(env)[0]?.join("=")}, or in code, or not at all`, () =>
      Effect.gen(function*() {
        const shown = (settings: Settings) => plain(shows(settings))
        assert.deepStrictEqual(shown(yield* PostgresConfig.make({ databaseUrl })), byDefault)
        assert.deepStrictEqual(shown(yield* fromEnvironment(inEnvironment)), byDefault)
        assert.deepStrictEqual(shown(yield* PostgresConfig.make({ databaseUrl, ...options })), given)
        assert.deepStrictEqual(shown(yield* fromEnvironment({ ...inEnvironment, ...env })), given)
      }))
  }

  it.effect("databaseUrl is HORSIES_DATABASE_URL, else DATABASE_URL", () =>
    Effect.gen(function*() {
      const other = "postgresql://other/app"
      const host = (settings: Settings) => settings.database.hosts[0].host
      assert.strictEqual(host(yield* fromEnvironment({ DATABASE_URL: other })), "other")
      assert.strictEqual(host(yield* fromEnvironment({ ...inEnvironment, DATABASE_URL: other })), "localhost")
    }))

  it("is one of those of the settings table, and each of those is here", () => {
    const covered = new Set(["databaseUrl", ...rows.flatMap(({ options }) => Object.keys(options))])
    assert.sameMembers(
      [...covered],
      Object.keys(
        {
          databaseUrl: 0,
          sessionDatabaseUrl: 0,
          pgbouncerTransactionMode: 0,
          poolSize: 0,
          maxOverflow: 0,
          workerPoolSize: 0,
          workerMaxOverflow: 0,
          workerChildPoolMinSize: 0,
          workerChildPoolMaxSize: 0,
          workerChildPoolCheck: 0,
          poolTimeout: 0,
          poolPrePing: 0,
          poolRecycle: 0,
          tcpKeepalives: 0,
          tcpKeepalivesIdle: 0,
          tcpKeepalivesInterval: 0,
          tcpKeepalivesCount: 0,
          echo: 0,
          schema: 0,
          applicationName: 0,
          connectTimeout: 0,
          statementTimeout: 0,
          lockTimeout: 0,
          transactionalPoolSize: 0,
          retention: 0,
          ssl: 0,
          migrate: 0
        } satisfies Record<keyof PostgresConfig.Options, 0>
      )
    )
  })
})
