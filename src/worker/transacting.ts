/** Attempts that run inside one database transaction together with their completion. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { AttemptEnd, Broker } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import { attempt } from "./attempt.ts"
import type { ReadyTask } from "./QueueSlots.ts"

/**
 * How often in a row a transaction of a task may fail, mostly because a connection was lost or the server is away, until it is
 * taken for a matter of the task.
 */
const mostFailures = 10

/** Between two such attempts but the first, in milliseconds. */
const pause = 200

/** Milliseconds for which the task lets others pass then, each time. */
const rest = 1000

/** The most tasks that are known to have failed so. */
const mostKnown = 1000

const inRealTime = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

export const make = (broker: Broker["Service"], now: () => number) => {
  /** How often the transactions of tasks have failed here in a row. */
  const failures = new Map<string, number>()

  /** How an attempt ends whose handler came to `end`, or to none, and of which nothing was committed. */
  const rolledBack = Effect.fnUntraced(function*(
    id: string,
    end: AttemptEnd | undefined,
    left: number
  ): Effect.fn.Return<AttemptEnd> {
    const before = failures.get(id) ?? 0
    if (failures.size >= mostKnown) failures.clear()
    failures.set(id, before + 1)
    if (before < mostFailures) {
      // Before its time is over: it has not taken too long.
      if (before > 0) yield* inRealTime(Effect.interruptible(Effect.sleep(Math.min(pause, left / 2))))
      return { _tag: "Interrupted", why: "RolledBack" }
    }
    return end === undefined || end._tag === "Completed" ? { _tag: "Snoozed", delay: rest } : end
  })

  /** Runs an attempt in a transaction. Succeeds with how it has ended, if that is yet to be recorded. */
  return (
    { handler, startedAt, task, worker }: ReadyTask & { readonly handler: Handler; readonly startedAt: number },
    waited: number
  ): Effect.Effect<AttemptEnd | undefined> => {
    let own: AttemptEnd | undefined
    const run = Effect.map(handler.run(task, waited), (end) => {
      own = end
      return { end, elapsed: now() - startedAt }
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
                rolledBack(task.id, own, Math.max(0, startedAt + (task.timeout ?? Number.POSITIVE_INFINITY) - now()))
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
