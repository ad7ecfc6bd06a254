/** A worker with children, for the test that kills it. Prints the processes of its children once they run something. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as MemoryBroker from "../../../src/MemoryBroker.ts"
import * as Worker from "../../../src/Worker.ts"
import { Act, Where } from "./module.ts"

const worker = Worker.layer({ processes: { module: new URL("module.ts", import.meta.url), count: 2 } })

Effect.gen(function*() {
  const wheres = yield* Effect.forEach([200, 200, 200, 200], (n) => Where.send({ n }))
  const pids = new Set(yield* Effect.forEach(wheres, (handle) => handle.await))
  yield* Act.send({ what: "stubborn" })
  process.stdout.write(`${[...pids].join(" ")}\n`)
  return yield* Effect.never
}).pipe(Effect.provide(Layer.provideMerge(worker, MemoryBroker.layer)), NodeRuntime.runMain)
