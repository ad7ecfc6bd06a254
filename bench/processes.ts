/** The processes of a contestant, seen from the benchmark. */
import * as NodeWorker from "@effect/platform-node/NodeWorker"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as RpcClient from "effect/rpc/RpcClient"
import type { RpcClientError } from "effect/rpc/RpcClientError"
import { type ChildProcess, fork } from "node:child_process"
import type { Name } from "./contestant.ts"
import { Rpcs } from "./rpcs.ts"

const main = new URL("process.ts", import.meta.url)

/** Nothing of ours: PG… variables would change how a driver connects. */
const environment = {
  PATH: process.env["PATH"],
  // As in graphile-worker's own performance test: a line per job is text that nobody would read.
  NO_LOG_SUCCESS: "1"
}

const spawn = (name: Name) =>
  Effect.gen(function*() {
    let child: ChildProcess | undefined
    const protocol = yield* RpcClient.layerProtocolWorker({ size: 1 }).pipe(
      Layer.provide(NodeWorker.layer(() => {
        child = fork(main, [name], { env: environment, serialization: "advanced" })
        return child
      })),
      Layer.build
    )
    // Added last, so run first: the platform waits five seconds for a process that it has asked to stop.
    yield* Effect.addFinalizer(() => Effect.sync(() => child?.kill("SIGKILL")))
    return yield* Effect.provideContext(RpcClient.make(Rpcs), protocol)
  })

export interface Processes {
  readonly name: Name
  readonly sender: RpcClient.FromGroup<typeof Rpcs, RpcClientError>
  readonly worker: RpcClient.FromGroup<typeof Rpcs, RpcClientError>
}

export const make = Effect.fnUntraced(function*(name: Name) {
  const processes: Processes = { name, sender: yield* spawn(name), worker: yield* spawn(name) }
  return processes
})
