/** Does what the worker asks for. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { LoadFailed, Rpcs } from "../worker/children/rpcs.ts"
import { load } from "./loading.ts"
import * as Running from "./running.ts"

/**
 * Gives back what loading has left, a third of the process. V8 does so when more is allocated; a child may be idle until it
 * ends. It takes some tens of milliseconds.
 */
const collectGarbage = Effect.ignore(Effect.try(() => {
  setFlagsFromString("--expose-gc")
  try {
    runInNewContext("gc")({ type: "major", flavor: "last-resort" })
  } finally {
    setFlagsFromString("--no-expose-gc")
  }
}))

/** The handlers of the requests. */
export const layer = Rpcs.toLayer(Effect.gen(function*() {
  const scope = yield* Scope.fork(yield* Effect.scope)
  let running: Running.Running | undefined

  /** Nothing else is asked before `Load` was answered. */
  const loaded = Effect.suspend(() =>
    running === undefined ? Effect.die("no module is loaded") : Effect.succeed(running)
  )

  return Rpcs.of({
    Load: ({ module, settings }) =>
      Scope.provide(load(module, settings), scope).pipe(
        Effect.flatMap(({ context, handlers }) => {
          running = Running.make(handlers, context)
          return Effect.forkIn(running.fence, scope).pipe(
            Effect.andThen(collectGarbage),
            Effect.as(handlers.descriptions())
          )
        }),
        Effect.catchDefect((defect) => Effect.fail(new LoadFailed({ message: String(defect) })))
      ),
    Run: (run) => Effect.flatMap(loaded, (running) => running.run(run)),
    Interrupt: ({ run }) => Effect.map(loaded, (running) => running.interrupt(run)),
    Failed: ({ failure, task }) => Effect.flatMap(loaded, (running) => running.failed(task, failure)),
    Ping: (lease) =>
      Effect.sync(() => {
        running?.renew(lease)
        return { memory: process.memoryUsage.rss() }
      }),
    Close: () => Scope.close(scope, Exit.void)
  })
}))
