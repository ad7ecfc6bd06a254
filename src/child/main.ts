/**
 * The program of a child process: it loads a module, and runs its handlers for the worker that has started it. It claims
 * nothing, and ends with its worker.
 */
import * as NodeWorkerRunner from "@effect/platform-node/NodeWorkerRunner"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as RpcServer from "effect/rpc/RpcServer"
import { Rpcs } from "../worker/children/rpcs.ts"
import { logsToStderr } from "../worker/children/settings.ts"
import { layer } from "./serving.ts"

// However the worker ends, its children do not stay.
process.once("disconnect", () => process.exit())

// A terminal or a service manager sends them to all processes: it is the worker who decides what becomes of its children.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined)

// Untraced: a span of the request must not become the parent of everything that a handler does.
const server = RpcServer.layer(Rpcs, { disableTracing: true, concurrency: "unbounded" }).pipe(
  Layer.provide(layer),
  Layer.provide(RpcServer.layerProtocolWorkerRunner),
  Layer.provide(NodeWorkerRunner.layer)
)

Effect.runFork(
  Effect.provideService(Layer.launch(server), Logger.LogToStderr, process.argv.includes(logsToStderr, 2))
).addObserver(() => process.exit())
