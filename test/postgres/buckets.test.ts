/** Token buckets of queues and keys that are at rest do not stay behind. */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { advance, claim, configure, newTask, send, startWorker, sweep, uniqueQueue, want } from "../contract/Harness.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"

const hour = 3_600_000

layer(PostgresHarness.broker, { excludeTestServices: true })(
  "a sweep removes",
  (it) => {
    it.effect("the buckets that are full again, and those whose rate was taken away", () =>
      Effect.gen(function*() {
        const sql = yield* PgClient.PgClient
        const [slow, fast, without] = [uniqueQueue(), uniqueQueue(), uniqueQueue()]
        const rate = (per: number) => ({ limits: { rate: { limit: 10, per }, perKey: { rate: { limit: 1, per } } } })
        yield* configure(slow, rate(10 * hour))
        for (const queue of [fast, without]) yield* configure(queue, rate(hour))
        const worker = yield* startWorker
        for (const queue of [slow, fast, without]) {
          yield* send(newTask({ queue, concurrencyKey: "a" }), newTask({ queue, concurrencyKey: "b" }))
          assert.lengthOf(yield* claim(worker, want(queue)), 2)
        }
        const buckets = Effect.map(
          sql<{ readonly queue: string; readonly key: string }>`
            select queue, concurrency_key as key from horsies_buckets order by queue, concurrency_key`.withoutTransform,
          (rows) => rows.map(({ key, queue }) => `${queue} ${key}`)
        )
        const of = (queue: string, ...keys: ReadonlyArray<string>) => keys.map((key) => `${queue} ${key}`)
        yield* sweep
        assert.sameMembers(yield* buckets, [slow, fast, without].flatMap((queue) => of(queue, "", "a", "b")))
        yield* configure(without, { limits: { concurrency: 10 } })
        // Two of ten tokens come back in a fifth of the time, the one of a key in all of it.
        yield* advance(hour / 2)
        yield* sweep
        assert.sameMembers(yield* buckets, [...of(slow, "", "a", "b"), ...of(fast, "a", "b")])
        yield* advance(hour / 2 + 1)
        yield* sweep
        assert.sameMembers(yield* buckets, of(slow, "", "a", "b"))
      }))
  }
)
