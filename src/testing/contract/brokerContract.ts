/** What every broker must do: the contract in the head of Broker.ts, as tests. */
import { layer } from "@effect/vitest"
import type * as Layer from "effect/Layer"
import type { Broker } from "../../Broker.ts"
import { attempts } from "./attempts.ts"
import { cancelling } from "./cancelling.ts"
import { claiming } from "./claiming.ts"
import { delays } from "./delays.ts"
import { duplicates } from "./duplicates.ts"
import { expiry } from "./expiry.ts"
import { explaining } from "./explaining.ts"
import { filtering } from "./filtering.ts"
import { finishing } from "./finishing.ts"
import type { Harness } from "./Harness.ts"
import { keys } from "./keys.ts"
import { limits } from "./limits.ts"
import { listing } from "./listing.ts"
import { liveness } from "./liveness.ts"
import { outcomes } from "./outcomes.ts"
import { pausing } from "./pausing.ts"
import { rates } from "./rates.ts"
import { resending } from "./resending.ts"
import { retention } from "./retention.ts"
import { sending } from "./sending.ts"
import { workerStates } from "./states.ts"
import { transactions, withoutTransactions } from "./transactions.ts"
import { versions } from "./versions.ts"
import { waking } from "./waking.ts"

/** What a broker can do beyond the core of the contract, and how its tests are to run. */
export interface ContractOptions {
  /** `true` for a broker that lives in real time, `false` for one that asks Effect's `Clock`. */
  readonly excludeTestServices: boolean
  /** Whether it has SQL transactions. Its harness then has to be `transactional`. */
  readonly transactions?: boolean | undefined
}

/**
 * Checks a broker against the contract: makes one suite of Vitest out of it, with some hundred tests. They share one build
 * of the layer, use queues of their own and run one after another; so a database can be used by run after run.
 *
 * @example
 * ```ts
 * // MyBroker.test.ts
 * import { brokerContract, Harness } from "effect-horsies/testing/contract"
 * import { MemoryBroker } from "effect-horsies"
 * import { Clock, Layer } from "effect"
 * import { TestClock } from "effect/testing"
 *
 * const harness = Layer.succeed(Harness, {
 *   advance: TestClock.adjust,
 *   now: Clock.currentTimeMillis
 * })
 *
 * brokerContract("MyBroker", Layer.merge(MemoryBroker.layer, harness), { excludeTestServices: false })
 * ```
 */
export const brokerContract = <E>(
  name: string,
  broker: Layer.Layer<Broker | Harness, E>,
  options: ContractOptions
) =>
  layer(broker, options)(name, (it) => {
    sending(it)
    duplicates(it)
    claiming(it)
    keys(it)
    versions(it)
    delays(it)
    expiry(it)
    limits(it)
    rates(it)
    pausing(it)
    finishing(it)
    attempts(it)
    outcomes(it)
    cancelling(it)
    filtering(it)
    listing(it)
    resending(it)
    explaining(it)
    liveness(it)
    workerStates(it)
    retention(it)
    waking(it)
    if (options.transactions === true) transactions(it)
    else withoutTransactions(it)
  })
