/** Looks for due tasks beside transactions that lock them. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import {
  advance,
  claimOne,
  newTask,
  promote,
  promoteAll,
  send,
  startWorker,
  uniqueQueue
} from "../../src/testing/contract/steps.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"

layer(PostgresHarness.broker, { excludeTestServices: true })(
  "a due task that somebody has locked",
  (it) => {
    for (
      const [what, options] of [["delayed", { due: { after: 100 } }], ["expiring", {
        goodUntil: { after: 100 }
      }]] as const
    ) {
      it.effect(`(${what}) is looked at again ever less often, and hides nothing that is due sooner`, () =>
        Effect.gen(function*() {
          const sql = yield* PostgresHarness.TestSql
          const queue = uniqueQueue()
          const task = newTask({ queue, ...options })
          yield* send(task)
          const other = yield* sql.reserve
          yield* other.executeRaw("begin", [])
          yield* other.executeRaw(`select from horsies_tasks where id = '${task.id}' for update`, [])
          const waits: Array<number | undefined> = []
          for (const millis of [100 + 8, 100, 5000]) {
            yield* advance(millis)
            waits.push(yield* promote(queue))
          }
          // As long as it has been due already, and never longer than a second.
          for (const [i, least] of [8, 108, 1000].entries()) {
            assert.isAtLeast(waits[i]!, least)
            assert.isAtMost(waits[i]!, least + 100)
          }
          const sooner = newTask({ queue, due: { after: 200 } })
          yield* send(sooner)
          assert.isAtMost((yield* promote(queue)) ?? Number.NaN, 202)
          yield* other.executeRaw("rollback", [])
          assert.isAtMost((yield* promoteAll(queue)) ?? Number.NaN, 202)
          if (what === "delayed") assert.strictEqual((yield* claimOne(yield* startWorker, queue)).id, task.id)
        }))
    }
  }
)
