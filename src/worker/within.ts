/** Waiting at the end of a scope. */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { inRealTime } from "./realTime.ts"

/**
 * Waits for an effect, but not for longer than this; succeeds with whether it has ended. In a fiber of its own: a
 * finalizer mostly runs because its fiber was interrupted, and whatever is interruptible in it would end at once. By the
 * real clock: a test that has ended does not move its own any more.
 */
export const within = (duration: Duration.Duration, wait: Effect.Effect<unknown>): Effect.Effect<boolean> =>
  Effect.flatMap(Effect.context<never>(), (context) => {
    const fork = Effect.runForkWith(context)
    const over = Deferred.makeUnsafe<boolean>()
    const waiting = fork(wait)
    const timer = fork(inRealTime(Effect.sleep(duration)))
    waiting.addObserver(() => Deferred.doneUnsafe(over, Effect.succeed(true)))
    timer.addObserver(() => Deferred.doneUnsafe(over, Effect.succeed(false)))
    return Effect.ensuring(
      Deferred.await(over),
      Effect.sync(() => {
        waiting.interruptUnsafe()
        timer.interruptUnsafe()
      })
    )
  })
