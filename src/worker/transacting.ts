/** Attempts that run inside one database transaction together with their completion. */
import * as Effect from "effect/Effect"
import type { AttemptEnd, Broker } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import { attempt } from "./attempt.ts"
import type { ReadyTask } from "./QueueSlots.ts"

/** Milliseconds after which an attempt is made again whose transaction the broker could not bring to its end. */
const again = 1000

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
      return result.failure.isRetryable
        ? Effect.as(
          Effect.annotateLogs(Effect.logWarning("transaction of an attempt failed"), result.failure.annotations),
          { _tag: "Snoozed", delay: again }
        )
        : handler.failed(task, { kind: "Defect", value: JSON.stringify(result.failure.message) })
    }
  )
}
