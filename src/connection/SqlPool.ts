/**
 * A pool with the SQL client over it.
 *
 * A statement that was under way when its connection died fails; no caller is ever handed a connection that is known
 * dead, or that was idle for longer than a moment without being asked.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import * as Client from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import { isSqlError, SqlError, UnknownError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import type { PoolSize, PostgresConfig } from "../PostgresConfig.ts"
import type { Endpoint } from "../PostgresUrl.ts"
import { realClock } from "./clock.ts"
import * as Deadlines from "./Deadlines.ts"
import { echoing } from "./echo.ts"
import { fromSqlError, typedTransaction } from "./failure.ts"
import { guard } from "./guard.ts"
import * as Inquiry from "./Inquiry.ts"
import { ask, isReadOnlyServer, type Purpose } from "./open.ts"
import * as Pool from "./Pool.ts"
import { Siblings } from "./Siblings.ts"
import { within } from "./within.ts"

/** What kind of pool to make. */
export interface Options {
  /** What the pool is called in metrics. */
  readonly name: string
  readonly endpoint: Endpoint
  readonly size: PoolSize
  /** A transaction pool: no named statements and no session state. */
  readonly transactionPool: boolean
  readonly prePing: boolean
  /** Whether the settings' limits for statements and locks hold. */
  readonly limited: boolean
  /** The client whose statements join the transactions of this one. Default: itself. */
  readonly transactionsOf?: Client.SqlClient | undefined
  /** Whether a statement without a deadline ends with the keepalive bound when nobody can say that it is worked on. */
  readonly unprovenEnds: boolean
}

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

const noListen = () => {
  const message = "a transaction pool swallows notifications: listen on a connection to the server itself"
  return new SqlError({ reason: new UnknownError({ cause: new Error(message), message, operation: "listen" }) })
}

/**
 * Listens for the application, on a connection of its own. It is asked whether it lives whenever nothing has come for a
 * while, and ended rather than given back: `UNLISTEN` would wait for a link that may be dead.
 */
const listenOn = Effect.fnUntraced(function*(config: PostgresConfig["Service"], member: Pool.Member, channel: string) {
  const connection = yield* member.connection.pin
  const listening = yield* Effect.scope
  const patience = Duration.millis(Pool.patienceOf(config))
  const limit = Duration.subtract(config.deadPeerBound, patience)
  const pinned = { ...member, connection }
  const notifications = yield* echoing(
    config,
    `LISTEN ${channel}`,
    within(member, limit, Scope.provide(connection.listen(channel), listening))
  )
  yield* Effect.addFinalizer(() => Effect.sync(member.destroy))
  yield* Effect.sleep(patience).pipe(
    Effect.andThen(Effect.suspend(() => ask(pinned, limit, "select 1"))),
    Effect.forever,
    // Whoever takes from the queue learns of it.
    Effect.ignore,
    Effect.provideService(Clock.Clock, realClock),
    Effect.forkScoped
  )
  return notifications
})

/** Makes a pool and the client over it. */
export const make = Effect.fnUntraced(function*(config: PostgresConfig["Service"], options: Options) {
  const purpose: Purpose = {
    endpoint: options.endpoint,
    transactionPool: options.transactionPool,
    limits: options.limited ? limitsOf(config) : {}
  }
  const siblings = yield* Siblings
  /** Completed, and replaced, when the server turns out to be away. */
  let trouble = Deferred.makeUnsafe<void>()
  const note = (error: unknown) => {
    if (!isSqlError(error) || fromSqlError(error).reason._tag !== "Unavailable") return
    Deferred.doneUnsafe(trouble, Effect.void)
    trouble = Deferred.makeUnsafe()
  }
  const pool = yield* Pool.make(config, { ...options, purpose, onFailure: note })
  // A pool for transactions has none to spare: as long as there are none, it has no place in the budget.
  if (options.transactionsOf === undefined) {
    yield* Effect.acquireRelease(
      Effect.sync(() => siblings.pools.add(pool)),
      () => Effect.sync(() => siblings.pools.delete(pool))
    )
  }
  const patience = Pool.patienceOf(config)
  // Keepalives do not help a statement that waits for its answer, and a middle-man may answer them itself.
  const deadlines = yield* Deadlines.make({
    patience: Duration.millis(patience),
    bound: config.deadPeerBound,
    isWorking: Inquiry.make({
      siblings,
      pool,
      transactionPool: options.transactionPool,
      limit: Duration.millis((Duration.toMillis(config.deadPeerBound) - patience) / 2)
    }),
    unprovenEnds: options.unprovenEnds
  })

  const guarded = (member: Pool.Member, connection = member.connection) =>
    guard(member, connection, {
      deadlines,
      statementTimeout: options.limited ? config.statementTimeout : undefined,
      echo: config.echo,
      onFailure: (error) => {
        note(error)
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
    ...(options.transactionsOf === undefined ? {} : { transactionService: options.transactionsOf.transactionService }),
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
      options.transactionPool
        ? Effect.fail(noListen())
        : Effect.flatMap(pool.take, (member) => listenOn(config, member, channel)),
    notify: (channel: string, payload: string) => Effect.asVoid(client`select pg_notify(${channel}, ${payload})`),
    withTransaction: <A, E, R>(self: Effect.Effect<A, E, R>) => typedTransaction(withTransaction(self))
  })
  return {
    client: pgClient,
    stats: Effect.sync(pool.stats),
    /** Statements that are under way, or wait for a connection. */
    statements: Effect.sync(() => deadlines.count() + pool.stats().waiting),
    /** From now on: succeeds with the effect that waits until a statement or an open fails because the server is away. */
    trouble: Effect.sync(() => Deferred.await(trouble))
  }
})
