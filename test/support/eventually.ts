/** Waiting for what cannot announce itself, such as the end of somebody else's process. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"

/** Looks again and again, in real time, until the condition holds; dies with `what` when it does not within 15 seconds. */
export const eventually = (what: string, condition: () => boolean): Effect.Effect<void> =>
  Effect.sync(condition).pipe(
    Effect.repeat({ until: (holds) => holds, schedule: Schedule.spaced("20 millis") }),
    Effect.timeoutOrElse({
      duration: "15 seconds",
      orElse: () => Effect.die(new Error(`not within 15 seconds: ${what}`))
    }),
    Effect.asVoid,
    Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
  )
