/** A second signal to end the process. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

/**
 * Signals that come so soon after the first are the same one: a terminal sends it to every process of its group, and a
 * program like npm passes on what it has been sent.
 */
const echo = Duration.millis(200)

const signals = ["SIGINT", "SIGTERM"] as const

const signal = Effect.callback<void>((resume) => {
  const listener = () => resume(Effect.void)
  const remove = () => signals.forEach((name) => process.removeListener(name, listener))
  for (const name of signals) process.on(name, listener)
  return Effect.sync(remove)
})

/** Runs `end`, and `hurry` as well when another signal comes meanwhile. Fits a finalizer. */
export const hurriedBySignal = (end: Effect.Effect<void>, hurry: Effect.Effect<void>): Effect.Effect<void> =>
  Effect.flatMap(Effect.context<never>(), (context) => {
    // A fiber of its own: it has to be interruptible whatever this one is.
    const waiting = Effect.runForkWith(context)(Effect.sleep(echo).pipe(Effect.andThen(signal), Effect.andThen(hurry)))
    return Effect.ensuring(end, Effect.sync(() => waiting.interruptUnsafe()))
  })
