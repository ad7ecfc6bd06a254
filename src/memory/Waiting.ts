/** Who waits for which outcome. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type { Outcome } from "../Broker.ts"

export class Waiting {
  private readonly waiters = new Map<string, Set<Deferred.Deferred<Outcome>>>()

  until(id: string): Effect.Effect<Outcome> {
    const waiter = Deferred.makeUnsafe<Outcome>()
    const others = this.waiters.get(id)
    if (others === undefined) this.waiters.set(id, new Set([waiter]))
    else others.add(waiter)
    return Effect.onInterrupt(Deferred.await(waiter), () =>
      Effect.sync(() => {
        const left = this.waiters.get(id)
        left?.delete(waiter)
        if (left?.size === 0) this.waiters.delete(id)
      }))
  }

  ended(outcomes: Iterable<readonly [id: string, outcome: Outcome]>) {
    for (const [id, outcome] of outcomes) {
      const waiters = this.waiters.get(id) ?? []
      this.waiters.delete(id)
      for (const waiter of waiters) Deferred.doneUnsafe(waiter, Effect.succeed(outcome))
    }
  }
}
