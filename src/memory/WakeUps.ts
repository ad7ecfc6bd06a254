/** Who is told that there may be something to do. */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type { Broker, WakeUp } from "../Broker.ts"
import type { Entry } from "./Entry.ts"

export class WakeUps {
  private readonly subscribers = new Set<Queue.Queue<WakeUp>>()

  readonly subscribe: Broker["Service"]["wakeUps"] = Effect.acquireRelease(
    Effect.tap(Queue.unbounded<WakeUp>(), (queue) => Effect.sync(() => this.subscribers.add(queue))),
    (queue) => Effect.andThen(Effect.sync(() => this.subscribers.delete(queue)), Queue.shutdown(queue))
  )

  /** Tells of tasks that wait now: once per queue, of the most urgent and the earliest. */
  waiting(entries: ReadonlyArray<Entry>, now: number) {
    const queues = new Map<string, { priority: number; dueIn: number }>()
    for (const { dueAt, priority, queue } of entries) {
      const before = queues.get(queue) ?? { priority, dueIn: dueAt - now }
      queues.set(queue, {
        priority: Math.min(before.priority, priority),
        dueIn: Math.min(before.dueIn, dueAt - now)
      })
    }
    for (const [queue, { dueIn, priority }] of queues) this.tell({ _tag: "Sent", queue, priority, dueIn })
  }

  tell(wakeUp: WakeUp) {
    for (const subscriber of this.subscribers) Queue.offerUnsafe(subscriber, wakeUp)
  }
}
