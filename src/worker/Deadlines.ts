/** The one keeper of all timeouts: a timer for each run would cost more than a small handler does. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import { forkLoop } from "./loops.ts"

/** A timer cannot be set for longer. */
const longestSleep = 2 ** 31 - 1

/**
 * Sleeps until the earliest deadline that it knows and then lets `look` deal with all that have passed. `look` gives the
 * earliest that is left.
 */
export const make = Effect.fnUntraced(function*(now: () => number, look: (at: number) => number) {
  let next = Number.POSITIVE_INFINITY
  const rearm = yield* Latch.make()

  yield* Effect.gen(function*() {
    rearm.closeUnsafe()
    const wait = next - now()
    if (wait > 0) {
      return yield* next === Number.POSITIVE_INFINITY
        ? rearm.await
        : Effect.raceFirst(Effect.sleep(Duration.millis(Math.ceil(Math.min(wait, longestSleep)))), rearm.await)
    }
    next = Number.POSITIVE_INFINITY
    // Runs that start during the look have lowered it already.
    const left = look(now())
    next = Math.min(next, left)
  }).pipe(Effect.forever, forkLoop)

  return {
    /** There is a deadline at this time, by the monotonic clock. */
    watch: (deadline: number) => {
      if (deadline >= next) return
      next = deadline
      rearm.openUnsafe()
    }
  }
})
