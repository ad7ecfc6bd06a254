/** Short runs of the torture program. */
import * as Effect from "effect/Effect"
import { rmSync } from "node:fs"
import type { Rule } from "../../../src/verify/checker.ts"
import type { Fault, Planned } from "../../../src/verify/plan.ts"
import * as Verify from "../../../src/verify/verify.ts"

const quiet: Verify.Options = {
  seconds: 8,
  seed: 7,
  workers: 2,
  children: 0,
  rate: 40,
  onFault: () => Effect.void,
  onStep: () => Effect.void
}

/** These faults, and no others. */
export const only = (...faults: ReadonlyArray<readonly [at: number, fault: Fault]>): ReadonlyArray<Planned> =>
  faults.map(([at, fault], i) => ({ at, fault, choice: i % 2 / 2 }))

/** What a run finds. Its files are of no use when it was meant to find something. */
export const run = (options: Partial<Verify.Options>) =>
  Effect.tap(
    Verify.run({ ...quiet, ...options }),
    ({ folder }) =>
      Effect.sync(() => folder === undefined ? undefined : rmSync(folder, { recursive: true, force: true }))
  )

export const rules = ({ report }: Verify.Result): ReadonlyArray<Rule> => [
  ...new Set(report.violations.map(({ rule }) => rule))
]
