/**
 * The pooled SQL client: ordinary statements of every part of the broker, and of the application beside it.
 *
 * The application may listen through it, on a direct connection: each channel takes a connection of the pool until its
 * scope closes. A queue of notifications fails within the keepalive bound when its link dies, and stays failed: listen
 * again, and look for what came meanwhile.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Client from "effect/sql/SqlClient"
import { BrokerError, Misconfigured } from "../Broker.ts"
import { PostgresConfig } from "../PostgresConfig.ts"
import { fromSqlError } from "./failure.ts"
import type * as Pool from "./Pool.ts"
import { patienceOf } from "./Pool.ts"
import { SessionSql } from "./SessionSql.ts"
import { Siblings } from "./Siblings.ts"
import * as SqlPool from "./SqlPool.ts"

/** The figures of the pool and what else health and diagnosis want to know. */
export class PoolStats extends Context.Service<PoolStats, {
  readonly get: Effect.Effect<Pool.Stats>
  /** Statements that are under way, or wait for a connection. */
  readonly statements: Effect.Effect<number>
  /** From now on: succeeds with the effect that waits until a statement or an open fails because the server is away. */
  readonly trouble: Effect.Effect<Effect.Effect<void>>
  /** What metrics call the pool, and the application. */
  readonly profile: Profile
  readonly applicationName: string
  /** How often to probe the pool, and how long a probe may take, so that a dead one is noticed within the keepalive bound. */
  readonly probeInterval: Duration.Duration
  readonly probeDeadline: Duration.Duration
}>()("effect-horsies/connection/PoolStats") {}

/** The most time between probes of the pool, and the most for one of them, in milliseconds. */
const mostInterval = 10_000
const mostDeadline = 5000

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

const make = Effect.fnUntraced(function*(profile: Profile) {
  const config = yield* PostgresConfig
  const { client, statements, stats, trouble } = yield* SqlPool.make(config, {
    name: profile,
    endpoint: config.database,
    size: config.pools[profile],
    transactionPool: config.pgbouncerTransactionMode,
    prePing: profile === "child" ? config.childPoolCheck : config.poolPrePing,
    limited: true,
    // A child has nobody to ask when all of its few connections are busy.
    unprovenEnds: config.pgbouncerTransactionMode || profile === "child"
  })
  if (profile !== "child") yield* prove(client, config.pgbouncerTransactionMode)
  const interval = Math.min(mostInterval, patienceOf(config))
  return Context.make(PgClient.PgClient, client).pipe(
    Context.add(Client.SqlClient, client),
    Context.add(PoolStats, {
      get: stats,
      statements,
      trouble,
      profile,
      applicationName: config.applicationName,
      probeInterval: Duration.millis(interval),
      probeDeadline: Duration.millis(Math.min(mostDeadline, Duration.toMillis(config.deadPeerBound) - interval))
    })
  )
})

type Clients = PgClient.PgClient | Client.SqlClient | PoolStats

/** The second session connection is there to be asked about statements, and opened when somebody does. */
const layerProfile = (profile: Profile): Layer.Layer<Clients, BrokerError, PostgresConfig> =>
  Layer.effectContext(make(profile)).pipe(
    Layer.provide(SessionSql.layer),
    Layer.provide(Siblings.layer),
    Layer.provide(Reactivity.layer)
  )

/**
 * The general pool: producers, web processes, schedulers, the application's own statements. Building it proves that the
 * server can be reached: it fails within `connectTimeout` otherwise.
 */
export const layer = layerProfile("general")

/** The pool of a worker. Building it proves that the server can be reached. */
export const layerWorker = layerProfile("worker")

/** The pool of a worker's child process: it opens nothing before the first statement, and nothing beside itself. */
export const layerChild: Layer.Layer<Clients, BrokerError, PostgresConfig> = Layer.effectContext(make("child")).pipe(
  Layer.provide(Siblings.layer),
  Layer.provide(Reactivity.layer)
)
