/** The broker in memory, whose clock is the one of the test. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as TestClock from "effect/testing/TestClock"
import { Broker } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import { Harness } from "../../src/testing/contract.ts"

export const layer = Layer.merge(
  MemoryBroker.layer,
  Layer.succeed(Harness, { advance: TestClock.adjust, now: Clock.currentTimeMillis })
)

/** What earlier sequences have left behind is over, and removed. */
export const removeOld = Effect.gen(function*() {
  const { retention, sweep } = yield* Broker
  yield* TestClock.adjust(yield* retention)
  yield* Effect.orDie(sweep)
})
