/**
 * Lets concurrent callers share statements. What arrives while statements are under way gathers and goes out together
 * with the next one; a lone caller never waits for company.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"

interface Call<A, B, E> {
  readonly input: A
  readonly answer: Deferred.Deferred<B, E>
  /** Its caller has gone before it became part of a statement. */
  dropped: boolean
}

/**
 * Makes a function whose concurrent calls are run together. `lanes` statements may be under way at once, each for up to
 * `most` calls. `run` answers the calls of a batch in their order.
 */
export const make = Effect.fnUntraced(function*<A, B, E>(options: {
  readonly lanes: number
  readonly most: number
  readonly run: (inputs: ReadonlyArray<A>) => Effect.Effect<ReadonlyArray<B>, E>
  /** How many of these calls, from the first on, one statement can carry; at least one. Default: all. */
  readonly fits?: ((inputs: ReadonlyArray<A>) => number) | undefined
  /** Whether a failed batch may be the fault of one call: the calls are then run one by one. */
  readonly divides?: ((error: E) => boolean) | undefined
}): Effect.fn.Return<(input: A) => Effect.Effect<B, E>, never, Scope.Scope> {
  const calls = yield* Queue.unbounded<Call<A, B, E>>()

  const answer = (batch: ReadonlyArray<Call<A, B, E>>): Effect.Effect<void> =>
    Effect.matchCauseEffect(options.run(batch.map((call) => call.input)), {
      onSuccess: (answers) =>
        Effect.sync(() => batch.forEach((call, i) => Deferred.doneUnsafe(call.answer, Effect.succeed(answers[i]!)))),
      onFailure: (cause) => {
        const failure = cause.reasons.find((reason) => reason._tag === "Fail")
        if (batch.length > 1 && failure !== undefined && options.divides?.(failure.error) === true) {
          return Effect.forEach(batch, (call) => answer([call]), { discard: true })
        }
        return Effect.sync(() => batch.forEach((call) => Deferred.doneUnsafe(call.answer, Effect.failCause(cause))))
      }
    })

  const answerAll = Effect.fnUntraced(function*(batch: ReadonlyArray<Call<A, B, E>>) {
    let rest = batch.filter((call) => !call.dropped)
    while (rest.length > 0) {
      const count = options.fits === undefined ? rest.length : options.fits(rest.map((call) => call.input))
      yield* answer(rest.slice(0, count))
      rest = rest.slice(count)
    }
  })

  const lane = Effect.forever(Effect.flatMap(Queue.takeBetween(calls, 1, options.most), answerAll))
  for (let i = 0; i < options.lanes; i++) {
    yield* Effect.forkScoped(lane)
  }
  return (input) =>
    Effect.suspend(() => {
      const call: Call<A, B, E> = { input, answer: Deferred.makeUnsafe(), dropped: false }
      Queue.offerUnsafe(calls, call)
      return Effect.onInterrupt(Deferred.await(call.answer), () =>
        Effect.sync(() => {
          call.dropped = true
        }))
    })
})
