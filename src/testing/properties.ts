/**
 * What every task broker must keep to in any sequence of events, for a broker of your own: random sequences, a model of the
 * state machine beside the broker, and the shortest sequence that shows what is wrong.
 *
 * `effect-horsies/testing/contract` shows with examples that a broker does what its contract says; this shows that nothing
 * else happens in between. It needs `vitest` and `@effect/vitest`, and a `Harness` that moves the broker's clock.
 *
 * @example
 * ```ts
 * import { Harness } from "effect-horsies/testing/contract"
 * import { brokerProperties } from "effect-horsies/testing/properties"
 * import { MemoryBroker } from "effect-horsies"
 * import { Clock, Layer } from "effect"
 * import { TestClock } from "effect/testing"
 *
 * const harness = Layer.succeed(Harness, { advance: TestClock.adjust, now: Clock.currentTimeMillis })
 *
 * brokerProperties("MyBroker", Layer.merge(MemoryBroker.layer, harness), {
 *   excludeTestServices: false,
 *   seeds: [1],
 *   sequences: 100
 * })
 * ```
 */
export {
  brokerProperties,
  type Counterexample,
  falsify,
  type PropertyOptions,
  report
} from "./properties/brokerProperties.ts"
export { type Rule, rules, type Violation } from "./properties/rules.ts"
export type { Falsified } from "./properties/running.ts"
export type { Step } from "./properties/Step.ts"
