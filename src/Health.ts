/**
 * Whether the connections of a broker are well: as a value, as a stream of changes, as something to wait for, and as an
 * HTTP route for load balancers and orchestrators.
 *
 * The same states are metrics: `horsies_connection_up`, `horsies_connection_reconnects` and
 * `horsies_connection_round_trip_seconds` have the attributes `connection` (`pool` or `session`) and `application`, and
 * for a pool also `pool`. Pools have metrics without this layer, too: `horsies_pool_size`, `horsies_pool_overflow`,
 * `horsies_pool_connections_open`, `horsies_pool_connections_used` and `horsies_pool_waiting`, with the attributes `pool`
 * (`general`, `worker`, `child`, or `session` for heartbeats and migrations) and `application`.
 *
 * @example
 * ```ts
 * import { Health, PostgresBroker } from "effect-horsies"
 * import { Effect, Layer } from "effect"
 *
 * const Live = Health.layer.pipe(Layer.provideMerge(PostgresBroker.layerConfig))
 *
 * const start = Effect.gen(function*() {
 *   const health = yield* Health.Health
 *   yield* health.ready // both connections are up
 * })
 * ```
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { ConnectionState } from "./connection/ConnectionState.ts"
import type { Stats } from "./connection/Pool.ts"
import { PoolStats } from "./connection/PooledSql.ts"
import * as PoolProbe from "./connection/PoolProbe.ts"
import { SessionListener } from "./connection/SessionListener.ts"

export type { ConnectionState, Status } from "./connection/ConnectionState.ts"

/** How the connections are. */
export interface Report {
  /** Whether everything that there is is connected. */
  readonly healthy: boolean
  readonly pool: ConnectionState & { readonly connections: Stats }
  /** None where the settings have only a transaction pool. */
  readonly session: ConnectionState | undefined
}

/** The health of a broker's connections. */
export class Health extends Context.Service<Health, {
  readonly report: Effect.Effect<Report>
  /** The present report, and one after every change of a state. */
  readonly changes: Stream.Stream<Report>
  /** Waits until every connection is up. */
  readonly ready: Effect.Effect<void>
}>()("effect-horsies/Health") {}

/** Probes the pool, and watches both connections. */
export const layer = Layer.effect(
  Health,
  Effect.gen(function*() {
    const stats = yield* PoolStats
    const session = yield* SessionListener
    const pool = yield* PoolProbe.make
    const report = Effect.map(stats.get, (connections): Report => {
      const poolState = SubscriptionRef.getUnsafe(pool)
      const sessionState = session.listens ? SubscriptionRef.getUnsafe(session.state) : undefined
      return {
        healthy: poolState.status === "connected" &&
          (sessionState === undefined || sessionState.status === "connected"),
        pool: { ...poolState, connections },
        session: sessionState
      }
    })
    const changes = Stream.merge(SubscriptionRef.changes(pool), SubscriptionRef.changes(session.state)).pipe(
      Stream.mapEffect(() => report)
    )
    return Health.of({
      report,
      changes,
      ready: changes.pipe(Stream.filter(({ healthy }) => healthy), Stream.take(1), Stream.runDrain)
    })
  })
)

const stateJson = ({ lastError, reconnects, roundTrip, since, status }: ConnectionState) => ({
  status,
  since: new Date(since).toISOString(),
  reconnects,
  lastError: lastError ?? null,
  roundTripMillis: roundTrip === undefined ? null : Duration.toMillis(roundTrip)
})

/** A report as the HTTP route gives it: 200 when everything is connected, else 503. */
export const response = ({ healthy, pool, session }: Report): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(
    {
      status: healthy ? "ok" : "unavailable",
      pool: { ...stateJson(pool), connections: pool.connections },
      session: session === undefined ? null : stateJson(session)
    },
    { status: healthy ? 200 : 503 }
  )

/**
 * The route, for the application's own router.
 *
 * @example
 * ```ts
 * const Server = HttpRouter.serve(Layer.mergeAll(Api, Health.route("/health")))
 * ```
 */
export const route = (path: `/${string}` = "/health"): Layer.Layer<never, never, Health | HttpRouter.HttpRouter> =>
  Layer.unwrap(Effect.map(Health, ({ report }) => HttpRouter.add("GET", path, Effect.map(report, response))))
