import * as Clock from "effect/Clock"
import * as Layer from "effect/Layer"
import * as TestClock from "effect/testing/TestClock"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import { brokerContract } from "./brokerContract.ts"
import { Harness } from "./Harness.ts"

const harness = Layer.succeed(Harness, { advance: TestClock.adjust, now: Clock.currentTimeMillis })

brokerContract("MemoryBroker", Layer.merge(MemoryBroker.layer, harness), { excludeTestServices: false })
