/** The state of a connection as the broker sees it: a value, a stream of changes, and metrics. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as SubscriptionRef from "effect/SubscriptionRef"

/** Where a connection stands. */
export type Status = "connecting" | "connected" | "reconnecting" | "closed"

/** The state of a connection. */
export interface ConnectionState {
  readonly status: Status
  /** Milliseconds since the epoch. */
  readonly since: number
  /** How often it was lost and opened again. */
  readonly reconnects: number
  /** The failure that ended it, or the last try, most lately. */
  readonly lastError: string | undefined
  /** Of the last probe. */
  readonly roundTrip: Duration.Duration | undefined
}

const up = Metric.gauge("horsies_connection_up", { description: "1 while the connection is up, else 0" })
const reconnects = Metric.counter("horsies_connection_reconnects", {
  description: "how often the connection was opened again",
  incremental: true
})

const roundTrips = Metric.gauge("horsies_connection_round_trip_seconds", {
  description: "how long the last probe of the connection took"
})

/** What tells the metrics of one connection from those of others. */
export interface Attributes {
  readonly connection: "pool" | "session"
  readonly application: string
  /** Which of the pools. */
  readonly pool?: string | undefined
}

const metricsOf = ({ application, connection, pool }: Attributes) => {
  const attributes = { connection, application, ...(pool === undefined ? {} : { pool }) }
  return {
    up: Metric.withAttributes(up, attributes),
    reconnects: Metric.withAttributes(reconnects, attributes),
    roundTrip: Metric.withAttributes(roundTrips, attributes)
  }
}

/** Keeps the state of one connection. Without attributes it has no metrics. */
export const make = Effect.fnUntraced(function*(attributes: Attributes | undefined) {
  const ref = yield* SubscriptionRef.make<ConnectionState>({
    status: "connecting",
    since: yield* Clock.currentTimeMillis,
    reconnects: 0,
    lastError: undefined,
    roundTrip: undefined
  })
  const metrics = attributes === undefined ? undefined : metricsOf(attributes)
  const move = Effect.fnUntraced(function*(status: Status, change: Partial<ConnectionState>) {
    const now = yield* Clock.currentTimeMillis
    const before = SubscriptionRef.getUnsafe(ref)
    const back = status === "connected" && before.status === "reconnecting"
    if (metrics !== undefined) {
      if (back) yield* Metric.update(metrics.reconnects, 1)
      yield* Metric.update(metrics.up, status === "connected" ? 1 : 0)
      if (change.roundTrip !== undefined) {
        yield* Metric.update(metrics.roundTrip, Duration.toSeconds(change.roundTrip))
      }
    }
    yield* SubscriptionRef.set(ref, {
      ...before,
      ...change,
      status,
      since: status === before.status ? before.since : now,
      reconnects: before.reconnects + (back ? 1 : 0)
    })
  })
  return {
    ref,
    connected: (roundTrip?: Duration.Duration) => move("connected", roundTrip === undefined ? {} : { roundTrip }),
    /** Before the first success a connection is still connecting. */
    lost: (error: string) =>
      Effect.suspend(() =>
        move(SubscriptionRef.getUnsafe(ref).status === "connecting" ? "connecting" : "reconnecting", {
          lastError: error
        })
      ),
    closed: move("closed", {})
  }
})

export type ConnectionStateRef = Effect.Success<ReturnType<typeof make>>
