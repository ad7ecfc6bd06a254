/** Attempts that run inside one database transaction together with their completion. */
import * as Effect from "effect/Effect"
import type { AttemptEnd, Broker } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import { attempt } from "./attempt.ts"
import type { ReadyTask } from "./QueueSlots.ts"

/**
 * Milliseconds for which an attempt whose transaction the broker could not bring to its end keeps its slot: the next one might
 * fail as fast. Its task then keeps its place before those that came later.
 */
const rest = 1000

/** Runs an attempt in a transaction. Succeeds with how it has ended, if that is yet to be recorded. */
export const inTransaction = (
  broker: Broker["Service"],
  { handler, startedAt, task, worker }: ReadyTask & { readonly handler: Handler; readonly startedAt: number },
  waited: number,
  now: () => number
): Effect.Effect<AttemptEnd | undefined> => {
  const run = Effect.map(handler.run(task, waited), (end) => ({ end, elapsed: now() - startedAt }))
  return Effect.flatMap(
    Effect.interruptible(attempt(broker.transact(worker, { id: task.id, fence: task.fence }, run))),
    (result): Effect.Effect<AttemptEnd | undefined> => {
      if (result._tag === "Success") {
        const { end, settled } = result.success
        return Effect.succeed(settled ? undefined : end)
      }
      // Nothing was committed, or the hold no longer stands and nothing will be recorded.
      if (!result.failure.isRetryable) {
        return handler.failed(task, { kind: "Defect", value: JSON.stringify(result.failure.message) })
      }
      // Not until its time is over: it has not taken too long.
      const left = Math.max(0, (task.timeout ?? Number.POSITIVE_INFINITY) - (now() - startedAt)) / 2
      return Effect.annotateLogs(Effect.logWarning("transaction of an attempt failed"), result.failure.annotations)
        .pipe(
          Effect.andThen(Effect.interruptible(Effect.sleep(Math.min(rest, left)))),
          Effect.as({ _tag: "Interrupted", why: "RolledBack" })
        )
    }
  )
}
