/** The brokers over which the test kit is tested, with the clock of each in the hands of the test. */
import * as Layer from "effect/Layer"
import type { Broker } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as DatabaseClock from "../../src/testing/DatabaseClock.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

/** A broker over a database whose clock moves together with `TestClock`. */
export const postgres = PostgresBroker.layer.pipe(
  Layer.provideMerge(DatabaseClock.layer),
  Layer.provide(TestBroker.config),
  Layer.provide(TestDatabase.layer)
)

/** Names and layers, for a suite over each. */
export const brokers: Readonly<Record<string, Layer.Layer<Broker, unknown>>> = {
  "the broker in memory": MemoryBroker.layer,
  PostgreSQL: postgres
}
