/** Attempts that run inside one database transaction together with their completion. */
import * as Effect from "effect/Effect"
import type { AttemptEnd, Broker } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import { attempt } from "./attempt.ts"
import type { ReadyTask } from "./QueueSlots.ts"
import { inRealTime } from "./realTime.ts"

/**
 * How often in a row a transaction of a task may fail, mostly because a connection was lost or the server is away, until it is
 * taken for a matter of the task.
 */
const mostFailures = 10

/** After a second failure in a row, and each that follows, in milliseconds. */
const pause = 200

/** Milliseconds for which the task lets others pass then, each time; and for which one waits that had no connection. */
const rest = 1000

/** The most tasks that are known to have failed so. */
const mostKnown = 1000

/** How far an attempt has come: whether its handler has begun, and what it has come to. */
interface Progress {
  began: boolean
  end: AttemptEnd | undefined
}

export const make = (broker: Broker["Service"], now: () => number) => {
  /** How often the transactions of tasks have failed here in a row. */
  const failures = new Map<string, number>()

  /** How an attempt ends of which nothing was committed. Until its time is over it may wait: it has not taken too long. */
  const rolledBack = Effect.fnUntraced(function*(
    id: string,
    { began, end }: Progress,
    left: number
  ): Effect.fn.Return<AttemptEnd> {
    const before = failures.get(id) ?? 0
    const wait = began ? (before === 0 ? 0 : pause) : rest
    if (began && before >= mostFailures) {
      return end === undefined || end._tag === "Completed" ? { _tag: "Snoozed", delay: rest } : end
    }
    // It is no matter of the task that there is no connection for it.
    if (began) {
      if (failures.size >= mostKnown && before === 0) failures.clear()
      failures.set(id, before + 1)
    }
    // A test that moves its own time waits for the end of the run.
    if (wait > 0) yield* inRealTime(Effect.interruptible(Effect.sleep(Math.min(wait, left / 2))))
    return { _tag: "Interrupted", why: "RolledBack" }
  })

  /** Runs an attempt in a transaction. Succeeds with how it has ended, if that is yet to be recorded. */
  return (
    { handler, startedAt, task, worker }: ReadyTask & { readonly handler: Handler; readonly startedAt: number },
    waited: number
  ): Effect.Effect<AttemptEnd | undefined> => {
    const progress: Progress = { began: false, end: undefined }
    const run = Effect.suspend(() => {
      progress.began = true
      return Effect.map(handler.run(task, waited), (end) => {
        progress.end = end
        return { end, elapsed: now() - startedAt }
      })
    })
    return Effect.flatMap(
      Effect.interruptible(attempt(broker.transact(worker, { id: task.id, fence: task.fence }, run))),
      (result): Effect.Effect<AttemptEnd | undefined> => {
        // Of this attempt nothing was committed, or its hold stands no longer and nothing will be recorded.
        if (result._tag === "Failure" && result.failure.isRetryable) {
          return Effect.annotateLogs(
            Effect.logWarning("transaction of an attempt failed"),
            result.failure.annotations
          ).pipe(
            Effect.andThen(
              Effect.suspend(() =>
                rolledBack(
                  task.id,
                  progress,
                  Math.max(0, startedAt + (task.timeout ?? Number.POSITIVE_INFINITY) - now())
                )
              )
            )
          )
        }
        failures.delete(task.id)
        if (result._tag === "Failure") {
          return handler.failed(task, { kind: "Defect", value: JSON.stringify(result.failure.message) })
        }
        const { end, settled } = result.success
        return Effect.succeed(settled ? undefined : end)
      }
    )
  }
}
