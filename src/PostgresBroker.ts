/**
 * The broker over PostgreSQL, as layers.
 *
 * - `layer` and `layerConfig` open their own connections: a pool for ordinary statements and one session for LISTEN.
 *   They also provide the pool as `SqlClient`, so that the application can send inside its transactions.
 * - `layerSqlClient` works over the `SqlClient` that the application already has.
 * - `layerChild` is for the child processes of a worker, which provides it by itself.
 *
 * Building any of them creates or migrates the tables, unless told not to.
 *
 * @example
 * ```ts
 * import { PostgresBroker, PostgresConfig } from "effect-horsies"
 * import { Layer, Redacted } from "effect"
 *
 * const FromEnvironment = PostgresBroker.layerConfig
 *
 * const FromCode = PostgresBroker.layer.pipe(
 *   Layer.provide(PostgresConfig.layer({ databaseUrl: Redacted.make("postgresql://localhost/app") }))
 * )
 * ```
 */
import type { PgClient } from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import {
  Broker,
  BrokerError,
  type EndedAttempt,
  highestPriority,
  type Hold,
  Misconfigured,
  type Outcome
} from "./Broker.ts"
import * as PooledSql from "./connection/PooledSql.ts"
import { SessionListener } from "./connection/SessionListener.ts"
import { SessionSql } from "./connection/SessionSql.ts"
import { TransactionSql } from "./connection/TransactionSql.ts"
import * as Claiming from "./postgres/claiming.ts"
import { type Database, fromClient } from "./postgres/Database.ts"
import * as Explaining from "./postgres/explaining.ts"
import * as Finding from "./postgres/finding.ts"
import { make as makeFinishing, type Recorded } from "./postgres/finishing.ts"
import * as Operating from "./postgres/operating.ts"
import * as Recovering from "./postgres/recovering.ts"
import * as Sending from "./postgres/sending.ts"
import * as Sweeping from "./postgres/sweeping.ts"
import * as Transacting from "./postgres/transacting.ts"
import * as Waiting from "./postgres/waiting.ts"
import * as WakeUps from "./postgres/wakeUps.ts"
import * as WorkerStates from "./postgres/workerStates.ts"
import * as PostgresConfig from "./PostgresConfig.ts"
import * as SchemaInitializer from "./schema/SchemaInitializer.ts"

const make = Effect.fnUntraced(function*(options: {
  /** Where the transactions of handlers run. */
  readonly client: SqlClient
  readonly database: Database
  readonly session: Database
  readonly listener: SessionListener["Service"]
  readonly noWorker: BrokerError | undefined
  /** Milliseconds. */
  readonly retention: number
}) {
  const { database, listener, noWorker, retention, session } = options
  const self = SecureRandom.uuidV4Unsafe()
  const claiming = Claiming.make(database)
  const { lowWater } = claiming
  const record = makeFinishing(database, claiming)
  const wakeUps = yield* WakeUps.make(database, self, listener, (wakeUp) => {
    // At once: whoever is woken by it, or has caused it, must not claim past it.
    if (wakeUp._tag === "LookAgain") lowWater.forget()
    else if (wakeUp._tag === "Sent") lowWater.arrived(wakeUp.queue, wakeUp.dueIn)
  })
  const waiting = yield* Waiting.make(database, self, listener)
  const send = yield* Sending.make(database, wakeUps)
  const ended = (ids: ReadonlyArray<string>) => waiting.ended(ids.map((id) => [id, undefined]))
  const recovering = Recovering.make(database, {
    session,
    noWorker,
    ready: wakeUps.announceAll,
    ended
  })
  const operating = Operating.make(database, wakeUps, ended)
  const { find, list } = Finding.make(database)

  /** What is held no more. Where it counted against a limit, others may start, in any process. */
  const freed = (ended: ReadonlyArray<Hold>, claimed?: ReadonlyArray<Hold>) =>
    Effect.suspend(() => {
      waiting.freed(ended)
      const queues = claiming.freed(ended, claimed)
      return queues.size === 0
        ? Effect.void
        : wakeUps.announce([...queues].map((queue) => ({ queue, priority: highestPriority, dueIn: 0 })))
    })

  const claim: Broker["Service"]["claim"] = (worker, wants) =>
    Effect.map(claiming.claimWith(worker, wants), (claimed) => {
      waiting.claimed(claimed.tasks)
      return claimed
    })

  /** Tells those who wait how tasks have ended. */
  const tell = (attempts: ReadonlyArray<EndedAttempt>, { accepted, cancelled, lost }: Recorded) => {
    const outcomes: Array<readonly [string, Outcome | undefined]> = []
    for (const { end, id } of attempts) {
      switch (end._tag) {
        case "Retry":
        case "Snoozed":
        case "Interrupted":
        case "Lost":
          break
        default:
          // What was not accepted may have been recorded by an earlier try whose answer was lost.
          outcomes.push([id, accepted.has(id) ? end : undefined])
      }
    }
    for (const id of cancelled) outcomes.push([id, { _tag: "Cancelled" }])
    for (const id of lost) outcomes.push([id, undefined])
    waiting.ended(outcomes)
  }

  const finish: Broker["Service"]["finish"] = Effect.fnUntraced(function*(worker, attempts, wants) {
    const finished = yield* record(worker, attempts, wants, (recorded) => tell(attempts, recorded))
    waiting.claimed(finished.claimed.tasks)
    if (finished.waiting.length > 0) yield* wakeUps.announce(finished.waiting)
    yield* freed(attempts, finished.claimed.tasks)
    return finished
  })

  return Broker.of({
    ...recovering,
    sweep: Sweeping.make(database, retention),
    ...operating,
    retention: Effect.succeed(retention),
    send,
    find,
    list,
    workerStates: WorkerStates.make(database),
    whyNotRunning: Explaining.make(database, find, operating.queue),
    claim,
    finish,
    transactional: Effect.succeed(true),
    transact: Transacting.make({
      client: options.client,
      schema: database.schema,
      finish: (database) => {
        const record = makeFinishing(database, claiming)
        return (worker, attempt) => record(worker, [attempt], [])
      },
      ended: (hold, outcome) =>
        Effect.suspend(() => {
          waiting.ended([[hold.id, outcome]])
          return freed([hold])
        })
    }),
    release: (worker, holds) =>
      // Whatever comes of it, the worker has forgotten them.
      Effect.ensuring(recovering.release(worker, holds), freed(holds)),
    promote: (queues) => {
      // What is promoted may be due earlier than anything claimed of late, before the statement and while it runs.
      const forget = Effect.sync(() => queues.forEach((queue) => lowWater.forget(queue)))
      return Effect.ensuring(Effect.andThen(forget, recovering.promote(queues)), forget)
    },
    outcome: waiting.outcome,
    wakeUps: wakeUps.subscribe
  })
})

/** A worker has to hear of wake-ups, and beats on a session of its own. */
const sessionMissing = new BrokerError({
  reason: new Misconfigured({
    field: "sessionDatabaseUrl",
    code: "SESSION_URL_REQUIRED",
    message:
      "a worker needs a session, and databaseUrl is a transaction pool; set sessionDatabaseUrl to the server itself"
  })
})

/** Who runs tasks for a worker does not claim any. */
const childIsNoWorker = new BrokerError({
  reason: new Misconfigured({
    field: "processes",
    code: "WORKER_IN_CHILD",
    message: "a child process of a worker cannot be a worker itself; leave Worker.layer out of its module"
  })
})

const layerOver = (
  pool: typeof PooledSql.layer
): Layer.Layer<
  Broker | SqlClient | PgClient | PooledSql.PoolStats | SessionListener | PostgresConfig.PostgresConfig,
  BrokerError,
  PostgresConfig.PostgresConfig
> =>
  Layer.effect(
    Broker,
    Effect.gen(function*() {
      const config = yield* PostgresConfig.PostgresConfig
      const client = yield* SqlClient
      const listener = yield* SessionListener
      const session = (yield* SessionSql).client
      yield* SchemaInitializer.initialize({
        schema: config.schema,
        // A transaction pool is no place for migrations: there the schema has to be there.
        migrate: config.migrate && session !== undefined
      }).pipe(Effect.provideService(SqlClient, session ?? client))
      const deadline = config.statementTimeout ?? config.deadPeerBound
      return yield* make({
        client: (yield* TransactionSql).client,
        database: fromClient(client, config.schema, deadline),
        session: fromClient(session ?? client, config.schema, deadline),
        listener,
        noWorker: session === undefined ? sessionMissing : undefined,
        retention: Duration.toMillis(config.retention)
      })
    })
  ).pipe(
    Layer.provideMerge(SessionListener.layer),
    Layer.provide(SessionSql.layer),
    Layer.provide(TransactionSql.layer),
    Layer.provideMerge(pool),
    // A worker hands them on to its child processes.
    Layer.merge(Layer.effect(PostgresConfig.PostgresConfig, Effect.service(PostgresConfig.PostgresConfig)))
  )

/**
 * The broker over its own connections: the general pool, and the session. The pool is provided too, as the `SqlClient`
 * whose transactions `send` joins.
 */
export const layer = layerOver(PooledSql.layer)

/** `layer` with its settings from the environment: `HORSIES_DATABASE_URL` or `DATABASE_URL`, see `PostgresConfig`. */
export const layerConfig = Layer.provide(layer, PostgresConfig.layerConfig)

/** `layer` for a process that does nothing but run tasks: its pool has the sizes of a worker's. */
export const layerWorker = layerOver(PooledSql.layerWorker)

/** `layerWorker` with its settings from the environment. */
export const layerWorkerConfig = Layer.provide(layerWorker, PostgresConfig.layerConfig)

/**
 * The broker of a worker's child process: sends, transactions, look-ups and cancellations. It opens no connection before
 * the first statement, listens to nothing, and expects the tables to be there. No worker can run over it.
 */
export const layerChild: Layer.Layer<
  Broker | SqlClient | PgClient | PooledSql.PoolStats,
  BrokerError,
  PostgresConfig.PostgresConfig
> = Layer.effect(
  Broker,
  Effect.gen(function*() {
    const config = yield* PostgresConfig.PostgresConfig
    const client = yield* SqlClient
    const database = fromClient(client, config.schema, config.statementTimeout ?? config.deadPeerBound)
    return yield* make({
      client,
      database,
      session: database,
      listener: yield* SessionListener,
      noWorker: childIsNoWorker,
      retention: Duration.toMillis(config.retention)
    })
  })
).pipe(
  Layer.provide(SessionListener.layerSilent),
  Layer.provideMerge(PooledSql.layerChild)
)

/** Options of `layerSqlClient`. */
export interface SqlClientOptions {
  /** The PostgreSQL schema that holds the tables. Default: `public`. */
  readonly schema?: string | undefined
  /** Whether to create or migrate the tables. Default: `true`. */
  readonly migrate?: boolean | undefined
  /** How long ended tasks are kept whose definitions say nothing else. Default: 7 days. */
  readonly retention?: Duration.Input | undefined
  /**
   * Where to open a session connection of its own for LISTEN. Without it, results and wake-ups from other processes are
   * found by polling: at most half a second and five seconds late.
   */
  readonly session?: PostgresConfig.Options | undefined
}

/**
 * The broker over the application's `SqlClient`, which must speak to PostgreSQL through `@effect/sql-pg`; whatever name
 * transforms it has do not matter. A `send` inside `withTransaction` of that client is part of the transaction.
 *
 * @example
 * ```ts
 * import { PostgresBroker } from "effect-horsies"
 * import { PgClient } from "@effect/sql-pg"
 * import { Layer, Redacted } from "effect"
 *
 * const databaseUrl = Redacted.make("postgresql://localhost/app")
 *
 * const Live = PostgresBroker.layerSqlClient({ session: { databaseUrl } }).pipe(
 *   Layer.provideMerge(PgClient.layer({ url: databaseUrl }))
 * )
 * ```
 */
export const layerSqlClient = (
  options: SqlClientOptions = {}
): Layer.Layer<Broker, BrokerError | PostgresConfig.PostgresConfigError, SqlClient> =>
  Layer.effect(
    Broker,
    Effect.gen(function*() {
      const schema = yield* PostgresConfig.schemaName(options.schema)
      const client = yield* SqlClient
      const retention = yield* PostgresConfig.retention(options.retention)
      const context = yield* Layer.build(
        options.session === undefined
          ? Layer.merge(SessionListener.layerSilent, SessionSql.layerNone)
          : Layer.provide(Layer.merge(SessionListener.layer, SessionSql.layer), PostgresConfig.layer(options.session))
      )
      const session = Context.get(context, SessionSql).client ?? client
      yield* SchemaInitializer.initialize({ schema, migrate: options.migrate ?? true }).pipe(
        Effect.provideService(SqlClient, session)
      )
      return yield* make({
        client,
        database: fromClient(client, schema),
        session: fromClient(session, schema),
        listener: Context.get(context, SessionListener),
        noWorker: undefined,
        retention: Duration.toMillis(retention)
      })
    })
  )
