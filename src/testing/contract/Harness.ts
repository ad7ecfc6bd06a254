/** What the contract suite needs beside the broker. */
import type { Vitest } from "@effect/vitest"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { Broker } from "../../Broker.ts"

/**
 * How the tests of the contract move the clock of the broker under test, and see its database.
 *
 * @example
 * ```ts
 * import { Harness } from "effect-horsies/testing/contract"
 * import { Clock, Layer } from "effect"
 * import { TestClock } from "effect/testing"
 *
 * // For a broker that asks Effect's Clock for the time.
 * const harness = Layer.succeed(Harness, {
 *   advance: TestClock.adjust,
 *   now: Clock.currentTimeMillis
 * })
 * ```
 */
export class Harness extends Context.Service<Harness, {
  /** Moves the broker's clock forward by milliseconds. */
  readonly advance: (millis: number) => Effect.Effect<void>
  /** What the broker's clock says: milliseconds since the epoch. */
  readonly now: Effect.Effect<number>
  /** For brokers with SQL transactions: rows beside the broker's own. */
  readonly transactional?: {
    /** Writes one row through the broker's own SQL client. */
    readonly write: Effect.Effect<void>
    /** How many such rows there are, for others than the transaction that has written them. */
    readonly count: Effect.Effect<number>
  } | undefined
}>()("effect-horsies/testing/contract/Harness") {}

/** The tests of one part of the contract are a function of this. */
export type It = Vitest.MethodsNonLive<Broker | Harness>
