/**
 * The pools of one process, the session's own among them, which know of each other: one has a connection to spare when
 * another has to ask about its statements, and none trusts idle links when one of them was found dead.
 */
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import type { ConnectionPool } from "./Pool.ts"

export class Siblings extends Context.Service<Siblings, {
  /** In the order in which they were made. */
  readonly pools: Set<ConnectionPool>
  /** One question at a time: however many statements are slow, one connection is enough to ask about them. */
  readonly asking: Semaphore.Semaphore
  /** When a server last answered a question, by `monotonic`. */
  answeredAt: number
}>()("effect-horsies/connection/Siblings") {
  /** Shared by all layers that are built together. */
  static readonly layer: Layer.Layer<Siblings> = Layer.sync(Siblings, () => ({
    pools: new Set<ConnectionPool>(),
    asking: Semaphore.makeUnsafe(1),
    answeredAt: Number.NEGATIVE_INFINITY
  }))
}
