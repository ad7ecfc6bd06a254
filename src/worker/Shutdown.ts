/**
 * The end of a worker, whoever asks for it and however often: it claims nothing more under any name, hands back what has
 * not started, waits for what runs, and interrupts what takes too long or cannot be waited for.
 */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import { within } from "./within.ts"

export interface Options {
  /** Stops claiming at once, and waits until what has not started is handed back, or for long enough. */
  readonly stop: Effect.Effect<void>
  /** Waits until nothing runs. */
  readonly idle: Effect.Effect<void>
  /** How long to wait for that. */
  readonly timeout: Duration.Duration
  /** Interrupts everything that runs. */
  readonly interrupt: Effect.Effect<void>
  /** Waits until what has ended is recorded, or for long enough. */
  readonly flushed: Effect.Effect<void>
}

export const make = Effect.fnUntraced(function*(options: Options) {
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  const hurry = yield* Latch.make()
  const over = yield* Deferred.make<void>()
  let begun = false

  const run = Effect.gen(function*() {
    // Apart from each other: what runs is not to go on because a broker that is away does not let anything be handed back.
    yield* Effect.all([
      options.stop,
      Effect.andThen(within(options.timeout, Effect.raceFirst(options.idle, hurry.await)), options.interrupt)
    ], { concurrency: 2, discard: true })
    yield* options.flushed
  })

  /** In a fiber of its own: whoever asks may be interrupted, and the end goes on. */
  const graceful = Effect.suspend(() => {
    if (!begun) {
      begun = true
      fork(run).addObserver(() => Deferred.doneUnsafe(over, Exit.void))
    }
    return Deferred.await(over)
  })

  return {
    begun: () => begun,
    graceful,
    /** The same without waiting for what runs; also while somebody waits. */
    immediate: Effect.andThen(Effect.sync(() => hurry.openUnsafe()), graceful)
  }
})
