/** Attempts that run inside one database transaction together with their completion. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { AttemptEnd, Broker } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import { attempt } from "./attempt.ts"
import type { ReadyTask } from "./QueueSlots.ts"

/** How often in a row a transaction may fail of a task that keeps its place. */
const mostInPlace = 10

/** Between two such attempts but the first, in milliseconds. */
const pause = 200

/** Milliseconds for which it lets others pass then, each time. */
const rest = 1000

/** The most tasks that are known to have failed so. */
const mostKnown = 1000

const inRealTime = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

export const make = (broker: Broker["Service"], now: () => number) => {
  /** How often the transactions of tasks have failed here in a row. */
  const failures = new Map<string, number>()

  /** Mostly a connection was lost, or the server is away: the task keeps its place. But this one might fail for ever. */
  const rolledBack = Effect.fnUntraced(function*(id: string, left: number): Effect.fn.Return<AttemptEnd> {
    const before = failures.get(id) ?? 0
    if (failures.size >= mostKnown) failures.clear()
    failures.set(id, before + 1)
    if (before >= mostInPlace) return { _tag: "Snoozed", delay: rest }
    // Before its time is over: it has not taken too long.
    if (before > 0) yield* inRealTime(Effect.interruptible(Effect.sleep(Math.min(pause, left / 2))))
    return { _tag: "Interrupted", why: "RolledBack" }
  })

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
          ).pipe(
            Effect.andThen(
              rolledBack(task.id, Math.max(0, (task.timeout ?? Number.POSITIVE_INFINITY) - (now() - startedAt)))
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
