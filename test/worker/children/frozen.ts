/** A worker that a test freezes while its child runs a handler that tells when it is interrupted. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as MemoryBroker from "../../../src/MemoryBroker.ts"
import { Act } from "./module.ts"
import { start } from "./processes.ts"

Effect.runFork(
  Effect.gen(function*() {
    yield* start({ count: 1 })
    yield* Act.send({ what: "neverAloud" })
    return yield* Effect.never
  }).pipe(Effect.scoped, Effect.provide(Layer.fresh(MemoryBroker.layer)))
)
