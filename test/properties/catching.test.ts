/** The properties notice what they are for: brokers that break a rule are caught, by short sequences. */
import { assert, describe, it, vi } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { QueueTasks } from "../../src/memory/QueueTasks.ts"
import { falsify, report, type Rule } from "../../src/testing/properties.ts"
import { layer } from "./memory.ts"
import { mutants, mutated } from "./mutants.ts"

const options = { sequences: 500 }

/** Enough to show any of the mistakes, and few enough to be read. */
const short = 12

const assertCaught = (found: Effect.Success<ReturnType<typeof falsify>>, rule: Rule) => {
  if (found === undefined) return assert.fail("not caught")
  assert.include(found.violations.map((violation) => violation.rule), rule, report(found))
  assert.isAtMost(found.steps.length, short, report(found))
  assert.match(report(found), /seed mutants, sequence \d+: \d+ of \d+ steps/)
}

describe("a broker is caught in which", () => {
  for (const [what, mutant] of Object.entries(mutants)) {
    it.effect(
      what,
      () => Effect.map(falsify(mutated(mutant), "mutants", options), (found) => assertCaught(found, mutant.rule))
    )
  }

  it.effect("a task that was recovered is put back nowhere", () =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const { add } = QueueTasks.prototype
        return vi.spyOn(QueueTasks.prototype, "add").mockImplementation(function(this: QueueTasks, entry, now) {
          if (entry.losses === 0) add.call(this, entry, now)
        })
      }),
      () => Effect.map(falsify(layer, "mutants", options), (found) => assertCaught(found, "ready")),
      (spy) => Effect.sync(() => spy.mockRestore())
    ))
})

it.effect("the same seed gives the same sequence", () =>
  Effect.gen(function*() {
    const mutant = mutated(mutants["a failure is a success"]!)
    const [one, other] = [yield* falsify(mutant, "again", options), yield* falsify(mutant, "again", options)]
    assert.deepStrictEqual([one!.sequence, one!.steps], [other!.sequence, other!.steps])
  }))
