/** Running one sequence, and finding the shortest one that still shows what is wrong. */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Layer from "effect/Layer"
import { Broker } from "../../Broker.ts"
import { Harness } from "../contract/Harness.ts"
import { draining } from "./draining.ts"
import { perform } from "./performing.ts"
import type { Violation } from "./rules.ts"
import type { Step } from "./Step.ts"
import { World } from "./World.ts"

/** A sequence that has shown a rule broken. */
export interface Falsified {
  readonly steps: ReadonlyArray<Step>
  /** What was done, the last of which showed it. */
  readonly trace: ReadonlyArray<string>
  readonly violations: ReadonlyArray<Violation>
}

/** Does the steps one by one, until a rule is broken; then sees to it that every task ends. */
export const run = Effect.fnUntraced(function*(steps: ReadonlyArray<Step>): Effect.fn.Return<
  Falsified | undefined,
  never,
  Broker | Harness
> {
  const harness = yield* Harness
  const broker = yield* Broker
  const world = new World(broker, harness, yield* harness.now, yield* broker.retention, SecureRandom.uuidV4Unsafe())
  const { model, trace } = world
  const whole = [...steps.map((step) => perform(world, step)), ...draining(world)]
  for (const [i, step] of whole.entries()) {
    const exit = yield* Effect.exit(step)
    if (Exit.isFailure(exit)) model.violations.push({ rule: "works", detail: Cause.pretty(exit.cause) })
    if (model.violations.length === 0) continue
    return {
      steps: steps.slice(0, i + 1),
      trace: trace.map((line) => world.readable(line)),
      violations: model.violations.map(({ detail, rule }) => ({ rule, detail: world.readable(detail) }))
    }
  }
  return undefined
})

/** What is not found in this time is not worth the wait. */
const longest = Duration.toMillis("30 seconds")

/**
 * Leaves out steps as long as the same rule is still seen to be broken: halves, then quarters, down to single ones. Each
 * try has a broker of its own, because one that has broken a rule may have been left in any state.
 */
export const shrink = Effect.fnUntraced(function*<E>(
  falsified: Falsified,
  broker: Layer.Layer<Broker | Harness, E>
) {
  // The clock of a test may stand still.
  const clock = Clock.Clock.defaultValue()
  const until = clock.currentTimeMillisUnsafe() + longest
  let best = falsified
  const rule = falsified.violations[0]!.rule
  for (let size = Math.ceil(best.steps.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    let shorter = true
    while (shorter) {
      shorter = false
      for (let from = best.steps.length - size; from >= 0 && clock.currentTimeMillisUnsafe() < until; from -= size) {
        const steps = best.steps.toSpliced(from, size)
        const again = yield* Effect.provide(run(steps), broker, { local: true })
        if (again?.violations[0]!.rule !== rule) continue
        best = again
        shorter = true
        from = Math.min(from, best.steps.length)
      }
      shorter &&= size === 1
    }
  }
  return best
})
