/**
 * A worker with children, for the test that kills it. Prints the processes of its children. One of them does not let itself
 * be interrupted then, the other has a blocked event loop, and says so.
 */
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
  process.stdout.write(`${[...pids].join(" ")}\n`)
  yield* Act.send({ what: "stubborn" })
  yield* Act.send({ what: "spinAloud" })
  return yield* Effect.never
}).pipe(Effect.provide(Layer.provideMerge(worker, MemoryBroker.layer)), NodeRuntime.runMain)
