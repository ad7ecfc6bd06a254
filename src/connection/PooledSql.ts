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
import * as Semaphore from "effect/Semaphore"
import * as Client from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import { SqlError, UnknownError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import { BrokerError, Misconfigured } from "../Broker.ts"
import { type PoolSize, PostgresConfig } from "../PostgresConfig.ts"
import type { Endpoint } from "../PostgresUrl.ts"
import * as Deadlines from "./Deadlines.ts"
import { fromSqlError, sqlStateOf, typedTransaction } from "./failure.ts"
import { guard } from "./guard.ts"
import { isReadOnlyServer, open, type Purpose } from "./open.ts"
import * as Pool from "./Pool.ts"
import { within } from "./within.ts"

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

/**
 * Asks, over another connection, whether the server still works for a process that has not answered for long. Behind a
 * pooler, whose process ids are its own, nobody knows: it counts as working.
 */
const isWorking = (config: PostgresConfig["Service"], purpose: Purpose, pid: number) =>
  Effect.scoped(Effect.gen(function*() {
    const owned = yield* open(config, purpose)
    yield* Effect.addFinalizer(() => Effect.sync(owned.destroy))
    // Without a state it is not for us to know.
    const asking = owned.connection.queryValues(
      `select pg_backend_pid() <> $2 or coalesce(
        (select coalesce(state not like 'idle%', true) from pg_stat_activity where pid = $1), false
      )`,
      [pid, owned.connection.processId],
      false
    )
    const [row] = yield* within(owned, config.deadPeerBound, asking)
    return row?.[0] === true
  }))

const noListen = () => {
  const message = "a transaction pool swallows notifications: listen on a connection to the server itself"
  return new SqlError({ reason: new UnknownError({ cause: new Error(message), message, operation: "listen" }) })
}

/** Makes a pool and the client over it. */
export const make = Effect.fnUntraced(function*(config: PostgresConfig["Service"], options: Options) {
  const purpose: Purpose = {
    endpoint: options.endpoint,
    transactionPool: options.transactionPool,
    limits: options.limited ? limitsOf(config) : {}
  }
  const pool = yield* Pool.make(config, purpose, options.size, options.prePing)
  const patience = Duration.millis(config.keepalives?.idle ?? Duration.toMillis(config.deadPeerBound) / 2)

  // However many statements are slow, one connection more is enough to ask about them.
  const asking = Semaphore.makeUnsafe(1)
  const deadlines = yield* Deadlines.make({
    patience,
    bound: config.deadPeerBound,
    // Keepalives do not help a statement that waits for its answer, and a middle-man may answer them itself. The process
    // ids of a transaction pooler are its own: there the statement's deadline is all there is.
    isWorking: ({ connection }) =>
      options.transactionPool
        ? Effect.succeed(true)
        : asking.withPermit(isWorking(config, purpose, connection.processId)).pipe(
          // A server that answers, if only to refuse another connection, is there.
          Effect.catch((error) => sqlStateOf(error) === undefined ? Effect.fail(error) : Effect.succeed(true))
        )
  })

  const guarded = (member: Pool.Member, connection = member.connection) =>
    guard(member, connection, {
      deadlines,
      statementTimeout: options.limited ? config.statementTimeout : undefined,
      echo: config.echo,
      onFailure: (error) => {
        if (!isReadOnlyServer(error)) return
        // A demoted primary would refuse every write to come. With the right hosts, a new connection finds the new one.
        if (options.endpoint.targetSessionAttrs === "read-write") pool.renew()
        else member.leaving = true
      }
    })

  const limits = Object.entries(purpose.limits)
  const setLimits = `select ${limits.map(([name], i) => `set_config('${name}', $${i + 1}, true)`).join(", ")}`
  /** A transaction pool has no session that could keep limits: its transactions begin with them. */
  const limited = (connection: Connection): Connection => {
    if (!options.transactionPool || limits.length === 0) return connection
    const follow = <A>(sql: string, effect: Effect.Effect<A, SqlError>) =>
      sql.startsWith("BEGIN")
        ? Effect.tap(effect, () => connection.executeRaw(setLimits, limits.map(([, value]) => value)))
        : effect
    return {
      ...connection,
      execute: (sql, params, transform) => follow(sql, connection.execute(sql, params, transform)),
      executeUnprepared: (sql, params, transform) => follow(sql, connection.executeUnprepared(sql, params, transform))
    }
  }

  const client = yield* Client.make({
    acquirer: Effect.map(pool.take, (member) => guarded(member)),
    borrower: (use) => Effect.scoped(Effect.flatMap(pool.take, (member) => use(guarded(member)))),
    transactionAcquirer: Effect.flatMap(
      pool.take,
      (member) => Effect.map(member.connection.pin, (connection) => limited(guarded(member, connection)))
    ),
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
      options.transactionPool ? Effect.fail(noListen()) : pool.take.pipe(
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

const noTransactions = new BrokerError({
  reason: new Misconfigured({
    field: "databaseUrl",
    code: "STATEMENT_POOL",
    message:
      "it leads to a pooler that ends every connection that begins a transaction; set its pool_mode to transaction"
  })
})

/** Proves that the server can be reached, and that what is called a transaction pool is no statement pool. */
const prove = (client: PgClient.PgClient, transactionPool: boolean): Effect.Effect<unknown, BrokerError> => {
  const statement = Effect.mapError(client`select 1`, fromSqlError)
  if (!transactionPool) return statement
  const transaction = Effect.mapError(client.withTransaction(client`select 1`), fromSqlError)
  // Once could be an accident. Not twice, when statements alone succeed.
  const again = Effect.andThen(
    statement,
    Effect.mapError(transaction, (error) => error.isRetryable ? noTransactions : error)
  )
  return Effect.andThen(statement, Effect.catchIf(transaction, (error) => error.isRetryable, () => again))
}

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
      if (profile !== "child") yield* prove(client, config.pgbouncerTransactionMode)
      return Context.make(PgClient.PgClient, client).pipe(
        Context.add(Client.SqlClient, client),
        Context.add(PoolStats, { get: stats })
      )
    })
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
