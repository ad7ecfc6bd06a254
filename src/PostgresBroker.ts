/**
 * The broker over PostgreSQL, as layers.
 *
 * - `layer` and `layerConfig` open their own connections: a pool for ordinary statements and one session for LISTEN.
 *   They also provide the pool as `SqlClient`, so that the application can send inside its transactions.
 * - `layerSqlClient` works over the `SqlClient` that the application already has.
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
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker, BrokerError, Misconfigured, type Outcome } from "./Broker.ts"
import * as PooledSql from "./connection/PooledSql.ts"
import { SessionListener } from "./connection/SessionListener.ts"
import { SessionSql } from "./connection/SessionSql.ts"
import * as Claiming from "./postgres/claiming.ts"
import { type Database, fromClient } from "./postgres/Database.ts"
import * as Finding from "./postgres/finding.ts"
import * as Recovering from "./postgres/recovering.ts"
import * as Sending from "./postgres/sending.ts"
import * as Waiting from "./postgres/waiting.ts"
import * as WakeUps from "./postgres/wakeUps.ts"
import * as PostgresConfig from "./PostgresConfig.ts"
import * as SchemaInitializer from "./schema/SchemaInitializer.ts"

const make = Effect.fnUntraced(function*(options: {
  readonly database: Database
  readonly session: Database
  readonly listener: SessionListener["Service"]
  readonly noWorker: BrokerError | undefined
}) {
  const { database, listener, noWorker, session } = options
  const self = SecureRandom.uuidV4Unsafe()
  const { claim, finish, lowWater } = Claiming.make(database)
  const wakeUps = yield* WakeUps.make(database, self, listener, (wakeUp) => {
    // At once: whoever is woken by it, or has caused it, must not claim past it.
    if (wakeUp._tag === "LookAgain") lowWater.forget()
    else lowWater.arrived(wakeUp.queue, wakeUp.dueIn)
  })
  const waiting = yield* Waiting.make(database, self, listener)
  const send = yield* Sending.make(database, wakeUps)
  const recovering = Recovering.make(database, {
    session,
    noWorker,
    ready: wakeUps.announceAll,
    failed: (ids) => waiting.ended(ids.map((id) => [id, undefined]))
  })

  return Broker.of({
    ...recovering,
    send,
    claim: (worker, wants) => Effect.tap(claim(worker, wants), (tasks) => Effect.sync(() => waiting.claimed(tasks))),
    release: (worker, holds) => Effect.tap(recovering.release(worker, holds), Effect.sync(() => waiting.freed(holds))),
    finish: Effect.fnUntraced(function*(worker, attempts, wants) {
      const { again, ...result } = yield* finish(worker, attempts, wants)
      waiting.claimed(result.claimed)
      const outcomes: Array<readonly [string, Outcome | undefined]> = []
      for (const { end, id } of attempts) {
        // What was not accepted may have been recorded by an earlier try whose answer was lost.
        if (end._tag !== "Retry") outcomes.push([id, result.accepted.has(id) ? end : undefined])
      }
      waiting.ended(outcomes)
      waiting.freed(attempts)
      if (again.length > 0) yield* wakeUps.announce(again)
      return result
    }),
    promote: (queues) => {
      // What is promoted may be due earlier than anything claimed of late, before the statement and while it runs.
      const forget = Effect.sync(() => queues.forEach((queue) => lowWater.forget(queue)))
      return Effect.ensuring(Effect.andThen(forget, recovering.promote(queues)), forget)
    },
    outcome: waiting.outcome,
    find: Finding.make(database),
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

const layerOver = (
  pool: typeof PooledSql.layer
): Layer.Layer<
  Broker | SqlClient | PgClient | PooledSql.PoolStats | SessionListener,
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
        database: fromClient(client, config.schema, deadline),
        session: fromClient(session ?? client, config.schema, deadline),
        listener,
        noWorker: session === undefined ? sessionMissing : undefined
      })
    })
  ).pipe(
    Layer.provideMerge(SessionListener.layer),
    Layer.provide(SessionSql.layer),
    Layer.provideMerge(pool)
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

/** Options of `layerSqlClient`. */
export interface SqlClientOptions {
  /** The PostgreSQL schema that holds the tables. Default: `public`. */
  readonly schema?: string | undefined
  /** Whether to create or migrate the tables. Default: `true`. */
  readonly migrate?: boolean | undefined
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
      yield* SchemaInitializer.initialize({ schema, migrate: options.migrate ?? true })
      const context = yield* Layer.build(
        options.session === undefined
          ? Layer.merge(SessionListener.layerSilent, SessionSql.layerNone)
          : Layer.provide(Layer.merge(SessionListener.layer, SessionSql.layer), PostgresConfig.layer(options.session))
      )
      return yield* make({
        database: fromClient(client, schema),
        session: fromClient(Context.get(context, SessionSql).client ?? client, schema),
        listener: Context.get(context, SessionListener),
        noWorker: undefined
      })
    })
  )
