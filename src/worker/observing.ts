/** What logs and spans say of the runs of handlers. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Tracer from "effect/Tracer"
import type { ClaimedTask } from "../Broker.ts"

/**
 * Annotates the log lines of runs in this context, and wraps them in spans. `size` is 0 for a task alone, else that of
 * the batch whose first task is given.
 */
export const make = (context: Context.Context<never>) => {
  // Spans cost more than a small handler: only when somebody collects them.
  const traced = Context.getOrUndefined(context, Tracer.Tracer) !== undefined

  return <A>(task: ClaimedTask, worker: string, size: number, effect: Effect.Effect<A>): Effect.Effect<A> => {
    const annotated = Effect.annotateLogs(
      effect,
      size === 0
        ? { task: task.id, name: task.name, queue: task.queue, attempt: task.attempt, worker }
        : { name: task.name, queue: task.queue, batch: size, worker }
    )
    if (!traced) return annotated
    const common = {
      "messaging.system": "effect-horsies",
      "messaging.operation.type": "process",
      "messaging.destination.name": task.queue,
      "horsies.task.name": task.name
    }
    return Effect.withSpan(annotated, `${task.name} process`, {
      kind: "consumer",
      attributes: size === 0
        ? { ...common, "messaging.message.id": task.id, "horsies.task.attempt": task.attempt }
        : { ...common, "messaging.batch.message_count": size }
    })
  }
}
