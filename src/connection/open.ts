/**
 * Opens connections that we can end from outside: on a dead link nothing but destroying the socket ends a statement
 * promptly.
 */
import * as PgConnection from "@effect/sql-pg/PgConnection"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { ConnectionError, isSqlError, SqlError } from "effect/sql/SqlError"
import * as Net from "node:net"
import type { Keepalives, PostgresConfig } from "../PostgresConfig.ts"
import type { Endpoint, Host } from "../PostgresUrl.ts"
import { echoing } from "./echo.ts"
import { fromSqlError, sqlStateOf } from "./failure.ts"
import { type Encryption, encryptions } from "./tls.ts"
import { within } from "./within.ts"

/** A connection and the means to end it at once. */
export interface OwnedConnection {
  readonly connection: PgConnection.PgConnection
  /** Ends the connection now; a statement under way fails, and so does a request to cancel it. */
  readonly destroy: () => void
  /** Whether it has ended, as far as is known here. */
  readonly isClosed: () => boolean
  /** Runs when the socket has closed, for whatever reason. */
  readonly onClose: (listener: () => void) => void
  /** Grows with everything that comes from the server. */
  readonly bytesRead: () => number
  /** Where it leads. */
  readonly host: Host
  /** What answered when it was opened. */
  readonly backend: Backend
  /** Whether statements are logged. */
  readonly echo: boolean
}

/**
 * A process of a server. Its id is not what the server said at the start: a session pooler makes that up. Behind a
 * transaction pool it is whichever process answered, and says nothing of later statements.
 */
export interface Backend {
  readonly pid: number
  /** When the server started, in seconds since the epoch by its own clock: no two servers share that. */
  readonly server: number
  /** When the process answered, by the same clock. */
  readonly at: number
}

/** What a connection is for. */
export interface Purpose {
  readonly endpoint: Endpoint
  /** A transaction pool: neither named statements nor start-up parameters. */
  readonly transactionPool: boolean
  /** The server's own limits for the statements of this connection. */
  readonly limits: Readonly<Record<string, string>>
}

const keepAlive = (socket: Net.Socket, { count, idle, interval }: Keepalives) => {
  // Node takes interval and count since 24.19; before, the kernel's stay.
  const set: (enable: boolean, idle: number, interval: number, count: number) => unknown = socket.setKeepAlive
  set.call(socket, true, idle, interval, count)
}

const connectSocket = (config: PostgresConfig["Service"], { host, port }: Host): Net.Socket => {
  if (host.startsWith("/")) return Net.connect({ path: `${host}/.s.PGSQL.${port}` })
  const socket = Net.connect({ host, port, noDelay: true })
  const { keepalives } = config
  if (keepalives !== undefined) socket.once("connect", () => keepAlive(socket, keepalives))
  return socket
}

/** The server's side of the keepalives. */
const serverKeepalives = (keepalives: Keepalives | undefined): Readonly<Record<string, string>> =>
  keepalives === undefined ? {} : {
    tcp_keepalives_idle: String(Math.max(1, Math.round(keepalives.idle / 1000))),
    tcp_keepalives_interval: String(Math.max(1, Math.round(keepalives.interval / 1000))),
    tcp_keepalives_count: String(keepalives.count)
  }

const attempt = Effect.fnUntraced(function*(
  config: PostgresConfig["Service"],
  { endpoint, transactionPool }: Purpose,
  host: Host,
  ssl: Encryption,
  startupParameters: Readonly<Record<string, string>>
): Effect.fn.Return<Omit<OwnedConnection, "backend">, SqlError, Scope.Scope> {
  let first: Net.Socket | undefined
  const sockets = new Set<Net.Socket>()
  // The driver says goodbye and leaves the socket to the other side, which may be gone: without this a half-open
  // connection would outlive its scope.
  yield* Effect.addFinalizer(() => Effect.sync(() => first?.destroySoon()))
  const connection = yield* PgConnection.make({
    // The driver never sees the URL: one that it cannot read ends up, password and all, in its error.
    host: host.host,
    port: host.port,
    database: endpoint.database,
    username: endpoint.username,
    password: endpoint.password,
    ssl,
    applicationName: endpoint.applicationName ?? config.applicationName,
    startupOptions: endpoint.options,
    startupParameters,
    connectTimeout: endpoint.connectTimeout ?? config.connectTimeout,
    prepare: !transactionPool,
    stream: () => {
      // The first is the connection; later ones carry cancel requests.
      const socket = connectSocket(config, host)
      sockets.add(socket)
      socket.once("close", () => sockets.delete(socket))
      first ??= socket
      return socket
    }
  })
  // Made by then: the connection has been opened over it.
  const socket = first!
  return {
    connection,
    destroy: () => {
      for (const each of sockets) each.destroy()
    },
    isClosed: () => socket.destroyed || !socket.readable,
    onClose: (listener) => socket.closed ? listener() : socket.once("close", listener),
    bytesRead: () => socket.bytesRead,
    host,
    echo: config.echo
  }
})

type Failures = readonly [SqlError, ...ReadonlyArray<SqlError>]

/**
 * Tries one thing after another, each in a scope that is closed when it fails, while it makes sense to go on. When all
 * have failed, one of the failures tells why.
 */
const firstOf = Effect.fnUntraced(function*<A>(
  attempts: ReadonlyArray<Effect.Effect<A, SqlError, Scope.Scope>>,
  goOn: (error: SqlError) => boolean,
  telling: (failures: Failures) => SqlError
): Effect.fn.Return<A, SqlError, Scope.Scope> {
  const scope = yield* Effect.scope
  const failures: Array<SqlError> = []
  for (const one of attempts) {
    const own = yield* Scope.fork(scope)
    const exit = yield* Effect.exit(Scope.provide(one, own))
    if (Exit.isSuccess(exit)) return exit.value
    yield* Scope.close(own, exit)
    const failure = exit.cause.reasons.find((reason) => reason._tag === "Fail")
    if (failure === undefined) return yield* Effect.failCause(exit.cause)
    if (!goOn(failure.error)) return yield* failure.error
    failures.push(failure.error)
  }
  return yield* telling(failures as unknown as Failures)
})

const isUnsupportedParameter = (error: SqlError) => sqlStateOf(error) === "08P01"

const hasNoTls = (error: SqlError) => /does not support TLS/.test(causeMessage(error))

/** The server wants it the other way: it has no TLS, or its rules refuse this kind of connection. */
const isEncryptionRefused = (error: SqlError) => sqlStateOf(error) === "28000" || hasNoTls(error)

/** What was wrong with the preferred way, unless the server does not have it. */
const refusal = (failures: Failures) => failures.find((error) => !hasNoTls(error)) ?? failures[0]

/** Where one host may yet come back, it is no use to say what another one refuses. */
const hope = (failures: Failures) => failures.findLast((error) => fromSqlError(error).isRetryable) ?? failures[0]

const causeMessage = ({ reason }: SqlError) =>
  reason.cause instanceof Error ? reason.cause.message : String(reason.cause)

const refusesWrites = () => {
  const message = "none of the hosts accepts writes"
  return new SqlError({ reason: new ConnectionError({ cause: new Error(message), message, operation: "connect" }) })
}

/** Runs a statement of the broker's own, unprepared, and ends the connection when it takes longer than the bound. */
export const ask = (
  owned: Pick<OwnedConnection, "connection" | "destroy" | "echo">,
  bound: Duration.Duration,
  sql: string,
  parameters: ReadonlyArray<unknown> = []
): Effect.Effect<ReadonlyArray<ReadonlyArray<unknown>>, SqlError> =>
  echoing(owned, sql, within(owned, bound, owned.connection.queryValues(sql, parameters, false)))

const takesNoWrites = "pg_is_in_recovery() or current_setting('transaction_read_only')::bool"

/** Fails when a host has to take writes and does not. */
export const proveWritable = (
  owned: OwnedConnection,
  endpoint: Endpoint,
  bound: Duration.Duration
): Effect.Effect<void, SqlError> =>
  endpoint.targetSessionAttrs === "any" ? Effect.void : Effect.flatMap(
    ask(owned, bound, `select ${takesNoWrites}`),
    ([row]) => row?.[0] === true ? Effect.fail(refusesWrites()) : Effect.void
  )

/** Seconds since the epoch when this server started, as an expression. */
export const startOfServer = "extract(epoch from pg_catalog.pg_postmaster_start_time())::float8"

/** Asks who is at the other end, and whether it takes writes when it has to. */
const meet = Effect.fnUntraced(function*(
  owned: Omit<OwnedConnection, "backend">,
  endpoint: Endpoint,
  bound: Duration.Duration
): Effect.fn.Return<OwnedConnection, SqlError> {
  const sql =
    `select pg_backend_pid(), ${startOfServer}, extract(epoch from clock_timestamp())::float8, ${takesNoWrites}`
  const [row] = yield* ask(owned, bound, sql)
  const [pid, server, at, readOnly] = row as [number, number, number, boolean]
  if (readOnly && endpoint.targetSessionAttrs !== "any") return yield* refusesWrites()
  return { ...owned, backend: { pid, server, at } }
})

/**
 * Opens a connection: the hosts in their order, each with every encryption that its `sslmode` allows. A pooler that
 * refuses the start-up parameters gets none, and the limits are set in the session.
 */
export const open = Effect.fnUntraced(function*(
  config: PostgresConfig["Service"],
  purpose: Purpose
): Effect.fn.Return<OwnedConnection, SqlError, Scope.Scope> {
  const { endpoint, transactionPool } = purpose
  const bound = endpoint.connectTimeout ?? config.connectTimeout
  const wanted = { ...serverKeepalives(config.keepalives), ...purpose.limits }

  const openOn = (host: Host, ssl: Encryption) =>
    transactionPool
      ? attempt(config, purpose, host, ssl, {})
      : firstOf(
        [
          attempt(config, purpose, host, ssl, wanted),
          Effect.tap(attempt(config, purpose, host, ssl, {}), (owned) =>
            Effect.forEach(
              Object.entries(wanted),
              ([name, value]) => ask(owned, bound, "select set_config($1, $2, false)", [name, value]),
              { discard: true }
            ))
        ],
        isUnsupportedParameter,
        ([refused]) => refused
      )

  return yield* firstOf(
    endpoint.hosts.map((host) =>
      Effect.flatMap(
        encryptions(endpoint, host),
        (ways) =>
          Effect.flatMap(firstOf(ways.map((ssl) => openOn(host, ssl)), isEncryptionRefused, refusal), (owned) =>
            meet(owned, endpoint, bound))
      )
    ),
    () => true,
    hope
  )
})

/** Whether a failure says that the server of this connection takes no writes: it was demoted, another is the primary. */
export const isReadOnlyServer = (error: unknown): boolean => isSqlError(error) && sqlStateOf(error) === "25006"
