/** The figures of a pool as metrics. Pools of one process that are called the same are counted together. */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import type { PoolSize } from "../PostgresConfig.ts"

const gauges = {
  size: Metric.gauge("horsies_pool_size", { description: "connections that the pool keeps" }),
  overflow: Metric.gauge("horsies_pool_overflow", { description: "connections that the pool may open on top" }),
  open: Metric.gauge("horsies_pool_connections_open", { description: "open connections of the pool" }),
  used: Metric.gauge("horsies_pool_connections_used", { description: "connections of the pool in use" }),
  waiting: Metric.gauge("horsies_pool_waiting", { description: "callers that wait for a connection of the pool" })
}

type Change = (by: number) => void

export interface PoolMetrics {
  readonly open: Change
  readonly used: Change
  readonly waiting: Change
}

/** The metrics of a pool of this size, which is gone with the scope. */
export const make = Effect.fnUntraced(function*(
  attributes: { readonly pool: string; readonly application: string },
  size: PoolSize
): Effect.fn.Return<PoolMetrics, never, Scope.Scope> {
  const context = yield* Effect.context<never>()
  const changeOf = (gauge: Metric.Gauge<number>): Change => {
    const own = Metric.withAttributes(gauge, attributes)
    own.modifyUnsafe(0, context)
    return (by) => own.modifyUnsafe(by, context)
  }
  const [kept, overflow] = [changeOf(gauges.size), changeOf(gauges.overflow)]
  kept(size.size)
  overflow(size.overflow)
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      kept(-size.size)
      overflow(-size.overflow)
    })
  )
  return { open: changeOf(gauges.open), used: changeOf(gauges.used), waiting: changeOf(gauges.waiting) }
})
