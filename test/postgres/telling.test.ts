/** When a finish tells what it has recorded, beside what it claims. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Claiming from "../../src/postgres/claiming.ts"
import type { Database, Row } from "../../src/postgres/Database.ts"
import * as Finishing from "../../src/postgres/finishing.ts"
import { uuid, want } from "../../src/testing/contract/steps.ts"

/** A row of a claim that says something about a queue. */
const remark = (
  queue: string,
  what: string
): Row => [null, queue, null, null, what, ...Array.from({ length: 10 }, () => null)]

describe("a finish that claims from several queues", () => {
  it.effect("tells what it has recorded before it asks for the others", () =>
    Effect.gen(function*() {
      const hold = { id: uuid(), fence: 1 }
      const steps: Array<string> = []
      const database: Database = {
        schema: "s",
        inTransaction: Effect.succeed(false),
        afterCommit: (effect) => effect,
        run: (sql) =>
          Effect.sync(() => {
            if (sql.includes("horsies_finish")) {
              steps.push("recorded")
              return [[hold.id, ...Array.from({ length: 14 }, () => null)]]
            }
            steps.push("claimed")
            return [remark("limited", "limited")]
          })
      }
      const claiming = Claiming.make(database)
      // So it is known that one of them has limits, and is claimed from apart.
      yield* claiming.claimWith("w", [want("limited")])
      steps.length = 0
      const finish = Finishing.make(database, claiming)
      const end = { _tag: "Completed", value: "1" } as const
      yield* finish("w", [{ ...hold, elapsed: 1, end }], [want("open"), want("limited")], ({ accepted }) => {
        assert.deepStrictEqual([...accepted], [hold.id])
        steps.push("told")
      })
      assert.deepStrictEqual(steps, ["recorded", "told", "claimed"])
    }))
})
