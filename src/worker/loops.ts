/** The fibers of a worker that go on for as long as it is there. A worker without one of them is not alive. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"

/** Those of one worker. */
export class Loops extends Context.Service<Loops, Set<Fiber.Fiber<unknown, unknown>>>()(
  "effect-horsies/worker/loops"
) {}

const died = (cause: Cause.Cause<never>) =>
  Cause.hasInterruptsOnly(cause)
    ? Effect.void
    : Effect.logError("a part of the worker has died: it has to be started again", cause)

/** Starts one more. It ends with the scope. */
export const forkLoop = <R>(
  loop: Effect.Effect<unknown, never, R>
): Effect.Effect<void, never, R | Loops | Scope.Scope> =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkScoped(Effect.onError(loop, died))
    ;(yield* Loops).add(fiber)
  })

export const areRunning = (loops: Loops["Service"]): boolean =>
  [...loops].every((fiber) => fiber.pollUnsafe() === undefined)
