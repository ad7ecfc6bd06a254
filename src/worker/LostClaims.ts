/** Finds claims that stand although nobody here knows of them: those of a request whose answer was lost. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Random from "effect/Random"
import type { Broker, Hold } from "../Broker.ts"
import { attemptOnce } from "./attempt.ts"
import { forkLoop } from "./loops.ts"
import { notHandedBack } from "./messages.ts"

/** A claim whose answer was lost may still be on its way to the server: it is looked for this long. */
const lateClaims = 600_000

/** Time from the first look to the second, which is doubled from look to look, and its bound; give or take a fifth. */
const shortest = 500
const longest = 5000

export interface Options {
  readonly identity: () => string | undefined
  /** Waits until no claim is under way. */
  readonly quiet: Effect.Effect<void>
  /** Every hold that somebody here knows of. */
  readonly known: () => Iterable<Hold>
}

export const make = Effect.fnUntraced(function*(broker: Broker["Service"], now: () => number, options: Options) {
  /** Opened whenever the answer of a request was lost. */
  const suspicion = yield* Latch.make()
  let until = 0
  let wait = shortest

  const reconcile = (worker: string) =>
    attemptOnce(
      Effect.gen(function*() {
        const holds = yield* broker.holds(worker)
        // What a claim brings that was under way meanwhile is known when it ends.
        yield* options.quiet
        const known = new Set<string>()
        for (const { fence, id } of options.known()) known.add(`${id} ${fence}`)
        const unknown = holds.filter(({ fence, id }) => !known.has(`${id} ${fence}`))
        if (unknown.length === 0) return
        yield* broker.release(worker, unknown)
        yield* Effect.annotateLogs(Effect.logWarning("claims whose answer was lost are handed back"), {
          claims: unknown.length
        })
      }),
      notHandedBack
    )

  yield* Effect.gen(function*() {
    if (now() >= until) yield* suspicion.await
    suspicion.closeUnsafe()
    const worker = options.identity()
    if (worker !== undefined) yield* reconcile(worker)
    const pause = Effect.sleep(Duration.millis(wait * (0.8 + 0.4 * (yield* Random.next))))
    const longer = Effect.sync(() => {
      wait = Math.min(longest, wait * 2)
    })
    yield* Effect.raceFirst(Effect.andThen(pause, longer), suspicion.await)
  }).pipe(Effect.forever, forkLoop)

  return {
    /** The answer of a request was lost. */
    suspect: () => {
      until = now() + lateClaims
      wait = shortest
      suspicion.openUnsafe()
    },
    suspected: () => now() < until,
    /** Hands back what is held under this identity without anybody here knowing. */
    reconcile
  }
})
