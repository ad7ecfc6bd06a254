/**
 * The pooled SQL client: ordinary statements of every part of the broker, and of the application beside it.
 *
 * A statement that was under way when its connection died fails; no caller is ever handed a connection that is known
 * dead, or that was idle for longer than a moment without being asked.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Client from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import { SqlError, UnknownError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import type { BrokerError } from "../Broker.ts"
import { type PoolSize, PostgresConfig } from "../PostgresConfig.ts"
import type { Endpoint } from "../PostgresUrl.ts"
import * as Deadlines from "./Deadlines.ts"
import { fromSqlError, typedTransaction } from "./failure.ts"
import { guard } from "./guard.ts"
import { isReadOnlyServer, open, type Purpose } from "./open.ts"
import * as Pool from "./Pool.ts"

/** The figures of the pool, for health and diagnosis. */
export class PoolStats extends Context.Service<PoolStats, {
  readonly get: Effect.Effect<Pool.Stats>
}>()("effect-horsies/connection/PoolStats") {}

/** What kind of pool to make. */
export interface Options {
  readonly endpoint: Endpoint
  readonly size: PoolSize
  /** A transaction pool: no named statements and no session state. */
  readonly transactionPool: boolean
  readonly prePing: boolean
  /** Whether the settings' limits for statements and locks hold. */
  readonly limited: boolean
}

const openGauge = Metric.gauge("horsies_pool_connections_open", { description: "open connections of the pool" })
const usedGauge = Metric.gauge("horsies_pool_connections_used", { description: "connections of the pool in use" })

const limitsOf = (config: PostgresConfig["Service"]): Readonly<Record<string, string>> => {
  const millis = (duration: Duration.Duration) => `${Math.ceil(Duration.toMillis(duration))}ms`
  return {
    ...(config.statementTimeout === undefined ? {} : { statement_timeout: millis(config.statementTimeout) }),
    ...(config.lockTimeout === undefined ? {} : { lock_timeout: millis(config.lockTimeout) })
  }
}

/** PostgreSQL answers `ROLLBACK` to the `COMMIT` of an aborted transaction. */
const commit = (connection: Connection): Effect.Effect<void, SqlError> =>
  Effect.flatMap(connection.executeRaw("COMMIT", []), (result) => {
    if ((result as { readonly command: string }).command !== "ROLLBACK") return Effect.void
    const message = "the transaction was aborted and has been rolled back"
    return Effect.fail(
      new SqlError({ reason: new UnknownError({ cause: new Error(message), message, operation: "commit" }) })
    )
  })

/** Asks, over another connection, whether the server still works for a process that has not answered for long. */
const isWorking = (config: PostgresConfig["Service"], purpose: Purpose, pid: number) =>
  Effect.scoped(Effect.gen(function*() {
    const { connection, destroy } = yield* open(config, purpose)
    yield* Effect.addFinalizer(() => Effect.sync(destroy))
    const [row] = yield* connection.queryValues(
      "select exists (select from pg_stat_activity where pid = $1 and state <> 'idle')",
      [pid],
      false
    )
    return row?.[0] === true
  }))

/** Makes a pool and the client over it. */
export const make = Effect.fnUntraced(function*(config: PostgresConfig["Service"], options: Options) {
  const purpose: Purpose = {
    endpoint: options.endpoint,
    transactionPool: options.transactionPool,
    limits: options.limited ? limitsOf(config) : {}
  }
  const pool = yield* Pool.make(config, purpose, options.size, options.prePing)
  const patience = Duration.millis(config.keepalives?.idle ?? Duration.toMillis(config.deadPeerBound) / 2)

  const deadlines = yield* Deadlines.make({
    patience,
    // Keepalives do not help a statement that waits for its answer, and a middle-man may answer them itself. The process
    // ids of a transaction pooler are its own: there the statement's deadline is all there is.
    suspicious: ({ connection }) =>
      options.transactionPool ? Effect.void : isWorking(config, purpose, connection.connection.processId).pipe(
        Effect.catch(() => Effect.succeed(false)),
        Effect.timeoutOrElse({
          duration: Duration.subtract(config.deadPeerBound, patience),
          orElse: () => Effect.succeed(false)
        }),
        Effect.map((working) => working ? undefined : connection.destroy())
      )
  })

  const guarded = (member: Pool.Member, connection = member.connection) =>
    guard(member, connection, {
      deadlines,
      statementTimeout: options.limited ? config.statementTimeout : undefined,
      echo: config.echo,
      // A demoted primary would refuse every write to come: the next connection finds the new one.
      onFailure: (error) => isReadOnlyServer(error) && member.destroy()
    })

  /** Ends a connection whose transaction was not ended: its next user would find itself inside it. */
  const transactionAcquirer = Effect.gen(function*() {
    const member = yield* pool.take
    let inside = false
    yield* Effect.addFinalizer(() => Effect.sync(() => inside && member.destroy()))
    const connection = guarded(member, yield* member.connection.pin)
    const follow = <A>(sql: string, effect: Effect.Effect<A, SqlError>) => {
      if (sql.startsWith("BEGIN")) inside = true
      return sql === "ROLLBACK" || sql === "COMMIT"
        ? Effect.tap(effect, () => Effect.sync(() => (inside = false)))
        : effect
    }
    return {
      ...connection,
      execute: (sql, params, transform) => follow(sql, connection.execute(sql, params, transform)),
      executeRaw: (sql, params) => follow(sql, connection.executeRaw(sql, params)),
      executeUnprepared: (sql, params, transform) => follow(sql, connection.executeUnprepared(sql, params, transform))
    } satisfies Connection
  })

  const client = yield* Client.make({
    acquirer: Effect.map(pool.take, (member) => guarded(member)),
    borrower: (use) => Effect.scoped(Effect.flatMap(pool.take, (member) => use(guarded(member)))),
    transactionAcquirer,
    compiler: PgClient.makeCompiler(),
    driver: "pg",
    prepareTransactionControls: true,
    commit,
    releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
    spanAttributes: [
      ["db.system.name", "postgresql"],
      ["db.namespace", options.endpoint.database],
      ["server.address", options.endpoint.hosts[0].host],
      ["server.port", options.endpoint.hosts[0].port]
    ]
  })
  const withTransaction = client.withTransaction
  const json = Statement.custom<Statement.Custom<"PgJson", unknown>>("PgJson")
  const pgClient: PgClient.PgClient = Object.assign(client, {
    [PgClient.TypeId]: PgClient.TypeId as typeof PgClient.TypeId,
    config: { applicationName: config.applicationName },
    json: (value: unknown) => Statement.fragment([json(value)]),
    listen: (channel: string) =>
      pool.take.pipe(
        Effect.flatMap(({ connection }) => connection.pin),
        Effect.flatMap((connection) => connection.listen(channel))
      ),
    notify: (channel: string, payload: string) => Effect.asVoid(client`select pg_notify(${channel}, ${payload})`),
    withTransaction: <A, E, R>(self: Effect.Effect<A, E, R>) => typedTransaction(withTransaction(self))
  })
  const stats = Effect.tap(
    Effect.sync(pool.stats),
    ({ inUse, open }) => Effect.andThen(Metric.update(openGauge, open), Metric.update(usedGauge, inUse))
  )
  return { client: pgClient, stats }
})

/** Which of the settings' sizes a pool has. */
export type Profile = "general" | "worker" | "child"

const layerProfile = (
  profile: Profile
): Layer.Layer<PgClient.PgClient | Client.SqlClient | PoolStats, BrokerError, PostgresConfig> =>
  Layer.effectContext(
    Effect.gen(function*() {
      const config = yield* PostgresConfig
      const { client, stats } = yield* make(config, {
        endpoint: config.database,
        size: config.pools[profile],
        transactionPool: config.pgbouncerTransactionMode,
        prePing: profile === "child" ? config.childPoolCheck : config.poolPrePing,
        limited: true
      })
      if (profile !== "child") yield* client`select 1`
      return Context.make(PgClient.PgClient, client).pipe(
        Context.add(Client.SqlClient, client),
        Context.add(PoolStats, { get: stats })
      )
    }).pipe(Effect.mapError(fromSqlError))
  ).pipe(Layer.provide(Reactivity.layer))

/**
 * The general pool: producers, web processes, schedulers, the application's own statements. Building it proves that the
 * server can be reached: it fails within `connectTimeout` otherwise.
 */
export const layer = layerProfile("general")

/** The pool of a worker. Building it proves that the server can be reached. */
export const layerWorker = layerProfile("worker")

/** The pool of a worker's child process: it opens nothing before the first statement. */
export const layerChild = layerProfile("child")
