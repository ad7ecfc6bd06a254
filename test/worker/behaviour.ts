/** What a worker does, over any broker: run unchanged by the tests of each. In real time. */
import { layer } from "@effect/vitest"
import type * as Layer from "effect/Layer"
import type { Broker } from "../../src/Broker.ts"
import { batches } from "./batches.ts"
import { retrying } from "./retrying.ts"
import { running } from "./running.ts"
import { sending } from "./sending.ts"
import { stopping } from "./stopping.ts"

export const workerBehaviour = <E>(name: string, broker: Layer.Layer<Broker, E>) =>
  layer(broker, { excludeTestServices: true, timeout: "30 seconds" })(`a worker over ${name}`, (it) => {
    running(it)
    retrying(it)
    stopping(it)
    batches(it)
    sending(it)
  })
