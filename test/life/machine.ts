/** How late the machine itself is: what else it has to do is no fault of ours. */
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import { quantile } from "./figures.ts"

/** Milliseconds of a step of the probe. */
const step = 5

/** On an idle machine a timer and a round trip to the server are less late than this, in milliseconds, 99 times of 100. */
const idle = 8

/**
 * Takes one sleep and one round trip after the other, for as long as the scope is open. Gives how late they were: bounds
 * that are meant for an idle machine are to be stretched by what is `beyond` one.
 */
export const probe = Effect.gen(function*() {
  const sql = yield* SqlClient
  const steps: Array<{ readonly from: number; readonly late: number }> = []
  yield* Effect.gen(function*() {
    const from = performance.now()
    yield* Effect.sleep(step)
    yield* sql`select 1`
    steps.push({ from: performance.timeOrigin + from, late: performance.now() - from - step })
  }).pipe(Effect.orDie, Effect.forever, Effect.forkScoped)
  const late = (share: number) => quantile(steps.map(({ late }) => late), share)
  const granted = (late: number) => late < idle ? 0 : 4 * late
  return {
    late,
    isIdle: () => late(0.99) < idle,
    /**
     * Milliseconds to grant beyond a bound for an idle machine: nothing when it was one. The start of a task takes up to
     * four such steps: a look that was under way, the look for what is due, a claim that was under way, and the claim.
     */
    beyond: (share: number) => late(0.99) < idle ? 0 : granted(late(share)),
    /** The same of what it was late between two moments, in milliseconds since the epoch. */
    beyondBetween: (begin: number, end: number) =>
      granted(Math.max(0, ...steps.flatMap(({ from, late }) => from < end && from + step + late > begin ? [late] : [])))
  }
})
