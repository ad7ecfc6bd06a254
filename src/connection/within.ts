/** A bound on statements of our own. */
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

/**
 * Runs statements on a connection, and ends the connection when they take longer. A caller that is interrupted goes on
 * at once: interrupting the statement itself would wait for a link that may be dead.
 */
export const within = <A, E>(
  connection: { readonly destroy: () => void },
  bound: Duration.Duration,
  statements: Effect.Effect<A, E>
): Effect.Effect<A, E> =>
  Effect.callback((resume) => {
    const running = Effect.runFork(statements)
    const timer = Effect.runFork(
      Effect.andThen(Effect.sleep(bound), Effect.sync(connection.destroy)).pipe(
        Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
      )
    )
    running.addObserver((exit) => {
      timer.interruptUnsafe()
      resume(exit)
    })
  })
