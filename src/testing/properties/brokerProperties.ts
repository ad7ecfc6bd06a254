/** What holds of every broker, whatever is done to it: shown on random sequences of steps. */
import { assert, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type { Broker } from "../../Broker.ts"
import type { Harness } from "../contract/Harness.ts"
import { generate } from "./generating.ts"
import { rules, show } from "./rules.ts"
import { type Falsified, run, shrink } from "./running.ts"

/** How many sequences are tried, and from where they come. */
export interface PropertyOptions<R = Broker | Harness> {
  /** Sequences of the same seed are the same. Each seed makes one test. */
  readonly seeds: ReadonlyArray<string | number>
  /** Sequences per seed. */
  readonly sequences: number
  /** The fewest and the most steps of a sequence. Default: 20 to 60. */
  readonly steps?: readonly [fewest: number, most: number] | undefined
  /** Done before each sequence, for instance to set the clock back. */
  readonly before?: Effect.Effect<unknown, never, R> | undefined
  /** How long a test may take, with the search for a shorter sequence when one fails. Default: 2 minutes. */
  readonly timeout?: Duration.Input | undefined
}

/** A sequence that broke a rule, and the shortest of its parts that was found to break the same. */
export interface Counterexample extends Falsified {
  readonly seed: string | number
  /** Which sequence of the seed, from 0. */
  readonly sequence: number
  /** How many steps it had at first. */
  readonly length: number
}

/**
 * Runs random sequences against one broker, until one of them breaks a rule: that one is made as short as possible, each
 * time with a broker of its own. Succeeds with nothing when no rule was broken.
 */
export const falsify = Effect.fnUntraced(function*<R, E>(
  broker: Layer.Layer<Broker | Harness | R, E>,
  seed: string | number,
  options: Omit<PropertyOptions<Broker | Harness | R>, "seeds" | "timeout">
): Effect.fn.Return<Counterexample | undefined, E> {
  const { before = Effect.void, sequences, steps: length = [20, 60] } = options
  const first = Effect.gen(function*() {
    for (let sequence = 0; sequence < sequences; sequence++) {
      yield* before
      const steps = yield* generate(`${seed} ${sequence}`, length)
      const falsified = yield* run(steps)
      if (falsified !== undefined) return { falsified, sequence, length: steps.length }
    }
    return undefined
  })
  const found = yield* Effect.provide(first, broker, { local: true })
  if (found === undefined) return undefined
  return { ...yield* shrink(found.falsified, broker), seed, sequence: found.sequence, length: found.length }
})

/** What follows from the first ones says nothing new. */
const mostViolations = 5

/** A counterexample as people read it. */
export const report = ({ length, seed, sequence, steps, trace, violations }: Counterexample): string =>
  [
    `seed ${seed}, sequence ${sequence}: ${steps.length} of ${length} steps break a rule`,
    ...violations.slice(0, mostViolations).map(({ detail, rule }) => `broken: ${rules[rule]} (${rule})\n  ${detail}`),
    "steps:",
    ...steps.map((step) => `  ${show(step)}`),
    "what was done:",
    ...trace.map((line, i) => `  ${i + 1}. ${line}`)
  ].join("\n")

/**
 * Checks a broker on random sequences of everything that can be done to it: sends, claims, finishes, releases, crashes,
 * steps of the clock, recoveries, cancellations, pauses, limits, answers that are lost. After each step everything that the
 * broker says of the tasks is compared with a small model of the state machine; at the end every task has to end.
 *
 * Needs a broker whose clock moves only when the harness moves it. A failure tells the seed, the shortest sequence that was
 * found, and the rule that is broken.
 *
 * @example
 * ```ts
 * // MyBroker.test.ts
 * import { Harness } from "effect-horsies/testing/contract"
 * import { brokerProperties } from "effect-horsies/testing/properties"
 * import { MemoryBroker } from "effect-horsies"
 * import { Clock, Layer } from "effect"
 * import { TestClock } from "effect/testing"
 *
 * const harness = Layer.succeed(Harness, { advance: TestClock.adjust, now: Clock.currentTimeMillis })
 *
 * brokerProperties("MyBroker", Layer.merge(MemoryBroker.layer, harness), {
 *   excludeTestServices: false,
 *   seeds: [1],
 *   sequences: 100
 * })
 * ```
 */
export const brokerProperties = <R, E>(
  name: string,
  broker: Layer.Layer<Broker | Harness | R, E>,
  options: PropertyOptions<Broker | Harness | R> & {
    /** `true` for a broker that lives in real time, `false` for one that asks Effect's `Clock`. */
    readonly excludeTestServices: boolean
  }
) => {
  const { excludeTestServices, seeds, sequences, timeout = "2 minutes" } = options
  const test = excludeTestServices ? it.live : it.effect
  for (const seed of seeds) {
    test(
      `${name} keeps every rule in ${sequences} random sequences of the seed ${seed}`,
      () =>
        Effect.map(falsify(broker, seed, options), (found) => {
          if (found !== undefined) assert.fail(report(found))
        }),
      Duration.toMillis(timeout)
    )
  }
}
