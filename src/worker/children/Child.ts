/** One child process, seen from its worker. */
import * as NodeWorker from "@effect/platform-node/NodeWorker"
import type * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as RpcClient from "effect/rpc/RpcClient"
import type { RpcClientError } from "effect/rpc/RpcClientError"
import * as Scope from "effect/Scope"
import { type ChildProcess, fork } from "node:child_process"
import { extname } from "node:path"
import { fileURLToPath } from "node:url"
import type { RunElsewhere } from "../elsewhere.ts"
import type { Keeper } from "./keeper.ts"
import { Rpcs, type RunEnd } from "./rpcs.ts"
import { logsToStderr } from "./settings.ts"

/** The program of a child, among the sources as in what is built from them. */
export const main = new URL(`../../child/main${extname(import.meta.url)}`, import.meta.url)

/** Whether this very process is a child. One that started children of its own would never come to an end. */
export const isChild = (): boolean => process.argv[1] === fileURLToPath(main)

/** Requests that may be under way at once. What a child may run is bounded by the slots of its queues. */
const mostRequests = 1_000_000

/**
 * What a child is for: not ready yet, held ready to replace another, running tasks, running its last ones, asked to
 * close, no more.
 */
export type Stage = "starting" | "spare" | "active" | "retiring" | "closing" | "gone"

/** What became of a run: what the child says, or that there is no child any more, and whether that was its own fault. */
export type Answer =
  | { readonly _tag: "Answered"; readonly ends: ReadonlyArray<RunEnd> }
  | { readonly _tag: "Died" }
  | { readonly _tag: "Killed" }

/** A call of a handler in a child. */
export interface Call {
  readonly number: number
  readonly runs: ReadonlyArray<RunElsewhere>
  readonly answer: Deferred.Deferred<Answer>
}

export class Child {
  readonly process: ChildProcess
  readonly rpc: RpcClient.FromGroup<typeof Rpcs, RpcClientError>
  readonly scope: Scope.Closeable
  stage: Stage = "starting"
  readonly calls = new Map<number, Call>()
  /** Tasks it runs: all, and by queue; and those among them that were lost before. */
  running = 0
  lostBefore = 0
  private readonly byQueue = new Map<string, number>()
  /** Tasks it was given, and tasks that have ended. */
  given = 0
  ended = 0
  /** Runs that were interrupted and go on. */
  interrupting = 0
  /** Seconds since the oldest ping that is not answered. */
  silent = 0
  pinged = false
  /** Bytes, of the last ping that was answered. */
  memory: number | undefined
  /** It has been killed because of one of its tasks: the others have done nothing wrong. */
  killed = false

  constructor(process: ChildProcess, rpc: RpcClient.FromGroup<typeof Rpcs, RpcClientError>, scope: Scope.Closeable) {
    this.process = process
    this.rpc = rpc
    this.scope = scope
  }

  runningOf(queue: string): number {
    return this.byQueue.get(queue) ?? 0
  }

  begin(call: Call) {
    this.calls.set(call.number, call)
    this.given += call.runs.length
    this.count(call, 1)
  }

  end(call: Call) {
    this.calls.delete(call.number)
    this.ended += call.runs.length
    this.count(call, -1)
  }

  /** At once: it gets no chance to do anything. */
  kill() {
    this.process.kill("SIGKILL")
  }

  names(): ReadonlyArray<string> {
    return [...new Set([...this.calls.values()].flatMap(({ runs }) => runs.map(({ task }) => task.name)))]
  }

  private count({ runs }: Call, sign: 1 | -1) {
    const queue = runs[0]!.task.queue
    this.running += sign * runs.length
    this.byQueue.set(queue, this.runningOf(queue) + sign * runs.length)
    this.lostBefore += sign * runs.filter(({ task }) => task.losses > 0).length
  }
}

/** How a process has ended. */
const describe = (code: number | null, signal: NodeJS.Signals | null) =>
  signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`

/**
 * Starts the process of a child; it answers as soon as it is up. Its own scope closes when it is gone, and it is gone
 * when that scope closes.
 */
export const spawn = Effect.fnUntraced(function*(
  execArgv: ReadonlyArray<string> | undefined,
  keeper: Keeper,
  onGone: (child: Child, how: string) => void
) {
  // Its log goes where ours does.
  const child = fork(main, (yield* Logger.LogToStderr) ? [logsToStderr] : [], {
    serialization: "advanced",
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    ...(execArgv === undefined ? {} : { execArgv: [...execArgv] })
  })
  keeper.watch(child.pid)
  let how: string | undefined
  let told: ((how: string) => void) | undefined
  const over = (what: string) => {
    if (how !== undefined) return
    how = what
    told?.(what)
  }
  child.once("exit", (code, signal) => {
    keeper.forget(child.pid)
    over(describe(code, signal))
  })
  // One that could not be started never exits; a channel that breaks is of no use to anybody.
  child.on("error", (error) => {
    if (child.pid === undefined) over(`could not be started: ${error.message}`)
    else child.kill("SIGKILL")
  })

  const scope = yield* Scope.make()
  const protocol = yield* RpcClient.layerProtocolWorker({ size: 1, concurrency: mostRequests }).pipe(
    // The platform starts a worker again that has ended: it gets the same process, and with it nothing.
    Layer.provide(NodeWorker.layer(() => child)),
    Layer.build,
    Scope.provide(scope),
    Effect.orDie
  )
  // Added last, so run first: the platform waits five seconds for a process that it has asked to stop.
  yield* Scope.addFinalizer(scope, Effect.sync(() => child.kill("SIGKILL")))
  const rpc = yield* RpcClient.make(Rpcs, { disableTracing: true }).pipe(
    Effect.provideContext(protocol),
    Scope.provide(scope)
  )
  const self = new Child(child, rpc, scope)
  told = (what) => onGone(self, what)
  if (how !== undefined) told(how)
  return self
})

/** Closes what is left of a child, and succeeds when its process is gone. */
export const dispose = (child: Child): Effect.Effect<void> => Scope.close(child.scope, Exit.void)
