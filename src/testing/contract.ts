/**
 * The contract that every task broker must keep, as a suite of tests for a broker of your own.
 *
 * The suite needs `vitest` and `@effect/vitest`. It has a part for every broker, and one for brokers with SQL
 * transactions, `{ transactions: true }`. Beside the broker it needs a `Harness`, which moves the broker's clock.
 *
 * @example
 * ```ts
 * import { brokerContract, Harness } from "effect-horsies/testing/contract"
 * import { MemoryBroker } from "effect-horsies"
 * import { Clock, Layer } from "effect"
 * import { TestClock } from "effect/testing"
 *
 * const harness = Layer.succeed(Harness, { advance: TestClock.adjust, now: Clock.currentTimeMillis })
 *
 * brokerContract("MyBroker", Layer.merge(MemoryBroker.layer, harness), { excludeTestServices: false })
 * ```
 */
export { brokerContract, type ContractOptions } from "./contract/brokerContract.ts"
export { Harness } from "./contract/Harness.ts"
