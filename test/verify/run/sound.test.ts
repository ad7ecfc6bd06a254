/** Short runs of the torture program over the broker as it is. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { Result } from "../../../src/verify/verify.ts"
import * as PgBouncer from "../../support/PgBouncer.ts"
import * as TestDatabase from "../../support/TestDatabase.ts"
import { only, run } from "./running.ts"

/** What is wrong. Of how late a recovery was nobody can tell while other tests take the machine: only not for how long. */
const wrong = ({ report: { maxRecoverySeconds, violations } }: Result) => {
  assert.isBelow(maxRecoverySeconds, 20)
  return violations.filter(({ rule }) => rule !== "lateRecovery")
}

describe("a short run", { timeout: 240_000 }, () => {
  it.live("of as many processes as by default finds nothing wrong, whatever happens to them and to the server", () =>
    Effect.gen(function*() {
      const result = yield* run({
        plan: only(
          [500, { what: "cut", how: "half", whom: "producers" }],
          [1000, { what: "kill", whom: "worker" }],
          [1500, { what: "kill", whom: "child" }],
          [2000, { what: "partition", millis: 3500 }],
          [2500, { what: "cut", how: "reset", whom: "worker" }],
          [3000, { what: "restart", how: "immediate", down: 0 }],
          [3500, { what: "kill", whom: "producer" }],
          [4000, { what: "stall", millis: 1000 }],
          [4500, { what: "freeze", whom: "group", millis: 3500 }],
          [5000, { what: "swallow", millis: 500 }],
          [5500, { what: "delay", late: 50, millis: 1000 }],
          [6000, { what: "freeze", whom: "worker", millis: 3500 }]
        ),
        workers: 4,
        children: 2,
        seconds: 7,
        long: 0.1
      })
      const { evidence, folder, report } = result
      assert.deepStrictEqual(wrong(result), [])
      const { effectsDoubled, effectsMissing, lost, recordedTwice, staleFinishes } = report
      assert.deepStrictEqual([lost, recordedTwice, staleFinishes, effectsMissing, effectsDoubled], [0, 0, 0, 0, 0])
      assert.isAtLeast(report.acknowledged, 100)
      assert.strictEqual(report.kills, 3)
      assert.strictEqual(report.freezes, 2)
      assert.strictEqual(report.restarts, 1)
      assert.strictEqual(report.cuts, 4)
      assert.isAtLeast(report.extraRuns, 1)
      assert.isAtLeast(report.recoveries, 1)
      assert.lengthOf(evidence.probes, 20)
      if (report.violations.length === 0) assert.isUndefined(folder)
    }))

  it.live("finds nothing wrong behind a transaction pooler whose backends are terminated", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase.make
      const pooler = yield* PgBouncer.make(url, { poolMode: "transaction" })
      const result = yield* run({
        databaseUrl: url,
        long: 0.2,
        poolerUrl: pooler.url,
        plan: only(
          [2500, { what: "kill", whom: "worker" }],
          [3000, { what: "terminate", backends: 5 }],
          [4000, { what: "cut", how: "half", whom: "worker" }],
          [5000, { what: "cut", how: "reset", whom: "producers" }]
        )
      })
      const { report } = result
      assert.deepStrictEqual(wrong(result), [])
      assert.isAtLeast(report.acknowledged, 100)
      assert.strictEqual(report.kills, 1)
      assert.strictEqual(report.restarts, 0)
      assert.isAtLeast(report.cuts, 2)
    }).pipe(Effect.scoped))
})
