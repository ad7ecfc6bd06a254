/**
 * Who listens on which channel. A subscriber that does not keep up loses notifications, but never the fact that some
 * came: what it has not taken is replaced by one "look again".
 */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"

/** What a subscriber of a channel is told. */
export type Event =
  | { readonly _tag: "Notified"; readonly payload: string }
  /** Something may have been notified that nobody heard: the connection is new, or the subscriber was too slow. */
  | { readonly _tag: "LookAgain" }

export const lookAgain: Event = { _tag: "LookAgain" }

/** Events that a subscriber may leave untaken. */
const capacity = 4096

export class Subscribers {
  private readonly channels = new Map<string, Set<Queue.Queue<Event>>>()

  names(): ReadonlyArray<string> {
    return [...this.channels.keys()]
  }

  has(channel: string): boolean {
    return this.channels.has(channel)
  }

  tell(channel: string, event: Event) {
    for (const subscriber of this.channels.get(channel) ?? []) {
      if (Queue.offerUnsafe(subscriber, event)) continue
      while (Queue.sizeUnsafe(subscriber) > 0) Queue.takeUnsafe(subscriber)
      Queue.offerUnsafe(subscriber, lookAgain)
    }
  }

  /** Adds a subscriber for the calling scope. `first` and `last` are told when a channel gets its first and loses its last one. */
  subscribe(channel: string, on: {
    readonly first: Effect.Effect<void>
    readonly joined: Effect.Effect<void>
    readonly last: Effect.Effect<void>
  }): Effect.Effect<Queue.Dequeue<Event>, never, Scope.Scope> {
    return Effect.acquireRelease(
      Effect.gen({ self: this }, function*() {
        const queue = yield* Queue.dropping<Event>(capacity)
        const others = this.channels.get(channel)
        if (others === undefined) {
          this.channels.set(channel, new Set([queue]))
          yield* on.first
        } else {
          others.add(queue)
          yield* on.joined
        }
        return queue
      }),
      (queue) =>
        Effect.gen({ self: this }, function*() {
          const others = this.channels.get(channel)
          others?.delete(queue)
          yield* Queue.shutdown(queue)
          if (others?.size === 0) {
            this.channels.delete(channel)
            yield* on.last
          }
        })
    )
  }
}
