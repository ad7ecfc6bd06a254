/** Waiting for what cannot announce itself, such as the end of somebody else's process. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"

/**
 * Looks again and again, in real time, until the condition holds; dies with `what` when it does not in time. A function
 * says it as things are by then.
 */
export const eventually = (
  what: string | (() => string),
  condition: () => boolean,
  seconds = 15
): Effect.Effect<void> =>
  Effect.sync(condition).pipe(
    Effect.repeat({ until: (holds) => holds, schedule: Schedule.spaced("20 millis") }),
    Effect.timeoutOrElse({
      duration: Duration.seconds(seconds),
      orElse: () => Effect.die(new Error(`not within ${seconds} seconds: ${typeof what === "string" ? what : what()}`))
    }),
    Effect.asVoid,
    Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
  )
