/** Attempts that run inside one database transaction together with their completion. */
import * as Effect from "effect/Effect"
import type { AttemptEnd, Broker } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import { attempt } from "./attempt.ts"
import type { ReadyTask } from "./QueueSlots.ts"

/** Milliseconds for which a task lets others pass whose transaction has failed more than once in a row. */
const rest = 1000

/** The most tasks that are known to have failed so. */
const mostKnown = 1000

export const make = (broker: Broker["Service"], now: () => number) => {
  /** Tasks whose last transaction here has failed. */
  const failed = new Set<string>()

  /** The task keeps its place for one more attempt: mostly a connection was lost. The next one might fail for ever. */
  const rolledBack = (id: string): AttemptEnd => {
    if (failed.has(id)) return { _tag: "Snoozed", delay: rest }
    if (failed.size >= mostKnown) failed.clear()
    failed.add(id)
    return { _tag: "Interrupted", why: "RolledBack" }
  }

  /** Runs an attempt in a transaction. Succeeds with how it has ended, if that is yet to be recorded. */
  return (
    { handler, startedAt, task, worker }: ReadyTask & { readonly handler: Handler; readonly startedAt: number },
    waited: number
  ): Effect.Effect<AttemptEnd | undefined> => {
    const run = Effect.map(handler.run(task, waited), (end) => ({ end, elapsed: now() - startedAt }))
    return Effect.flatMap(
      Effect.interruptible(attempt(broker.transact(worker, { id: task.id, fence: task.fence }, run))),
      (result): Effect.Effect<AttemptEnd | undefined> => {
        // Of this attempt nothing was committed, or its hold stands no longer and nothing will be recorded.
        if (result._tag === "Failure" && result.failure.isRetryable) {
          return Effect.annotateLogs(
            Effect.logWarning("transaction of an attempt failed"),
            result.failure.annotations
          ).pipe(Effect.map(() => rolledBack(task.id)))
        }
        failed.delete(task.id)
        if (result._tag === "Failure") {
          return handler.failed(task, { kind: "Defect", value: JSON.stringify(result.failure.message) })
        }
        const { end, settled } = result.success
        return Effect.succeed(settled ? undefined : end)
      }
    )
  }
}
