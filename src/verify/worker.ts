/** The program of a worker of a run. It ends with the run, however that ends. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PostgresBroker from "../PostgresBroker.ts"
import * as PostgresConfig from "../PostgresConfig.ts"
import * as Worker from "../Worker.ts"
import { moduleOf } from "./here.ts"
import { ready } from "./processes.ts"
import * as Settings from "./Settings.ts"
import { lanesQueue, probeQueue, queue } from "./tasks.ts"

process.once("disconnect", () => process.exit(1))

const make = Effect.gen(function*() {
  const settings = yield* Settings.read
  const { children, heartbeatInterval, lease, slot } = settings
  const worker = Worker.layer({
    queues: {
      // A few per process: enough of them wait in a handler when it is killed.
      [queue]: { concurrency: 8 },
      [lanesQueue]: { concurrency: 4, limits: { perKey: { concurrency: 3 } } },
      [probeQueue(slot)]: { concurrency: 1 }
    },
    heartbeatInterval,
    lease,
    shutdownTimeout: "3 seconds",
    ...(children > 0 ? { processes: { module: moduleOf("handlers"), count: children, execArgv: [] } } : {})
  })
  // Where children run the handlers, the journal is theirs.
  const { handlers } = children > 0
    ? { handlers: Layer.empty }
    : yield* Effect.promise(() => import("./handlers.ts"))
  return Layer.provideMerge(Layer.effectDiscard(ready), handlers).pipe(
    Layer.provideMerge(worker),
    Layer.provideMerge(PostgresBroker.layerWorker),
    Layer.provideMerge(PostgresConfig.layer(Settings.database(settings)))
  )
})

Layer.unwrap(make).pipe(Layer.launch, NodeRuntime.runMain)
