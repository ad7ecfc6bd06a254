/**
 * The hot functions ride their indexes whatever the planner knows: over an empty table, a small one and a large one that
 * was never analyzed, with plans that were made while the table was empty, with prepared statements and without.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Broker } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import {
  claim,
  completed,
  ended,
  failed,
  finish,
  promote,
  recover,
  retry,
  startWorker,
  uuid,
  want
} from "../contract/Harness.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { reading } from "./reading.ts"

/** One connection, so that every statement meets the plans that the ones before it have left. */
const broker = (prepare: boolean) =>
  PostgresBroker.layerSqlClient().pipe(
    Layer.provideMerge(
      Layer.unwrap(Effect.map(TestDatabase, ({ url }) => PgClient.layer({ url, maxConnections: 1, prepare })))
    ),
    Layer.provide(TestDatabase.layer)
  )

const names = ["a", "b", "c"]

/** Waiting tasks of three names, as many delayed ones, and some of a worker that nobody knows. */
const fill = (rows: number) =>
  PgClient.PgClient.use((sql) =>
    Effect.forEach(
      [
        sql`insert into horsies_tasks (id, run_at, sent_at, priority, due, queue, name, payload)
          select gen_random_uuid(), now() - (${rows}::int - i) * interval '1 second', now(), 1 + i % 5, true, 'q',
            (array['a', 'b', 'c'])[1 + i % 3], 'null'
          from generate_series(1, ${rows}::int) i`,
        sql`insert into horsies_tasks (id, run_at, sent_at, priority, due, queue, name, payload)
          select gen_random_uuid(), now() + interval '1 hour' + i * interval '1 second', now(), 1, false, 'q', 'a', 'null'
          from generate_series(1, ${rows}::int) i`,
        sql`insert into horsies_tasks (id, run_at, sent_at, priority, due, queue, name, payload, state, worker)
          select gen_random_uuid(), now(), now(), 1, true, 'held', 'a', 'null', 'CLAIMED', ${uuid()}::uuid
          from generate_series(1, ${Math.min(rows, 100)}::int) i`,
        // One key with most of the tasks, and fifty with a few.
        ...["keyed", "limited"].map((queue) =>
          sql`insert into horsies_tasks (id, run_at, sent_at, priority, due, queue, name, payload, concurrency_key)
          select gen_random_uuid(), now(), now(), 1, true, ${queue}, 'a', 'null',
            case when i % 100 < 50 then 'hot' else 'key ' || i % 100 end
          from generate_series(1, ${rows}::int) i`
        )
      ],
      (statement) => statement
    )
  )

/** Everything that the hot path does, with what it read. */
const hotPath = Effect.gen(function*() {
  const broker = yield* Broker
  const worker = yield* startWorker
  const one = yield* reading(claim(worker, want("q", { names: ["a"], slots: 80, ahead: 20 })))
  const several = yield* reading(claim(worker, want("q", { names, slots: 100 })))
  const nothing = yield* reading(claim(worker, want("q", { names: ["unknown"] }), want("empty", { names })))
  yield* broker.configureQueue("limited", { limits: { concurrency: 1000, perKey: { concurrency: 20 } } })
  const keyed = yield* reading(claim(worker, want("keyed", { names: ["a"], slots: 100, ahead: 400 })))
  // The first claim learns that the queue has limits.
  yield* claim(worker, want("limited", { names: ["a"], slots: 1 }))
  const limited = yield* reading(claim(worker, want("limited", { names: ["a"], slots: 100 })))
  const third = (part: number) => one.result.filter((_, i) => i % 3 === part)
  return {
    one,
    several,
    nothing,
    keyed,
    limited,
    finished: yield* reading(finish(worker, ...third(0).map((task) => ended(task, failed())))),
    retried: yield* reading(finish(worker, ...third(1).map((task) => ended(task, retry(3_600_000))))),
    released: yield* reading(broker.release(worker, third(2))),
    fused: yield* reading(broker.finish(
      worker,
      several.result.map((task) => ended(task, completed())),
      [want("q", { names: ["b"], slots: 50 })]
    )),
    promoted: yield* reading(promote("q", "empty"))
  }
})

for (const prepare of [true, false]) {
  for (const rows of [0, 90, 60_000]) {
    layer(broker(prepare), { excludeTestServices: true })(
      `over ${rows} waiting tasks, statements ${prepare ? "prepared" : "unprepared"}`,
      (it) => {
        it.effect("every hot function reads what it needs from its index and no more", () =>
          Effect.gen(function*() {
            const sql = yield* PgClient.PgClient
            yield* sql`alter table horsies_tasks set (autovacuum_enabled = false)`
            // Leaves plans that were made while the table was empty.
            yield* hotPath
            yield* fill(rows)
            const steps = yield* hotPath
            const [table] = yield* sql<{ readonly analyzed: boolean }>`
              select reltuples >= 0 as analyzed from pg_class where relname = 'horsies_tasks'`
            assert.isFalse(table!.analyzed)

            for (const [step, { scanned }] of Object.entries(steps)) {
              assert.deepStrictEqual(scanned, [], step)
            }
            const { finished, fused, keyed, limited, nothing, one, promoted, released, retried, several } = steps
            const read = (step: { readonly entries: Readonly<Record<string, number>> }, index: string) =>
              step.entries[index] ?? 0

            const count = Math.min(100, rows / 3)
            assert.lengthOf(one.result, count)
            assert.strictEqual(read(one, "horsies_tasks_ready"), count)
            assert.strictEqual(read(one, "horsies_tasks_pkey"), count)
            assert.strictEqual(read(one, "horsies_tasks_suspect"), 0)

            // Once the heads of all lanes, once what is taken of each, and once more what was claimed just before.
            assert.lengthOf(several.result, Math.min(100, rows - count))
            assert.isAtMost(read(several, "horsies_tasks_ready"), 300 + 100 + 2 * count)

            assert.deepStrictEqual(nothing.result, [])
            assert.strictEqual(read(nothing, "horsies_tasks_ready"), 0)

            // The lanes with their heads, and what is taken.
            if (rows > 1000) assert.lengthOf(keyed.result, 500)
            // With few tasks, more rounds: what was taken in the first lies in the way of the next.
            assert.isAtMost(read(keyed, "horsies_tasks_ready"), rows > 1000 ? 2 * 51 + keyed.result.length : 500)
            if (rows > 1000) assert.lengthOf(limited.result, 100)
            // Rounds over up to 51 keys; what was taken in the first lies in the way of the next.
            assert.isAtMost(read(limited, "horsies_tasks_ready"), 1000)
            assert.isAtMost(read(limited, "horsies_tasks_counted"), 101 + 100 * 4)

            // Each row, and the version that the claim has replaced.
            for (const step of [finished, retried, released]) {
              assert.deepStrictEqual(Object.keys(step.entries), rows === 0 ? [] : ["horsies_tasks_pkey"])
              assert.isAtMost(read(step, "horsies_tasks_pkey"), 2 * Math.ceil(count / 3))
            }
            assert.lengthOf([...fused.result.accepted], several.result.length)
            assert.isAtMost(
              read(fused, "horsies_tasks_pkey"),
              2 * several.result.length + fused.result.claimed.tasks.length
            )
            assert.isAtMost(read(fused, "horsies_tasks_ready"), 50 + several.result.length)
            // The next due task: nothing was due, so nothing was updated.
            assert.sameMembers(Object.keys(promoted.entries), ["horsies_tasks_delayed", "horsies_tasks_expiring"])
            assert.strictEqual(read(promoted, "horsies_tasks_expiring"), 0)
            assert.isAtMost(read(promoted, "horsies_tasks_delayed"), 2)
          }))

        it.effect("recovery goes from holder to holder and never reads what waits", () =>
          Effect.gen(function*() {
            const sql = yield* PgClient.PgClient
            // The tasks of the worker that nobody knows, and what the worker of the test above has left.
            const [held] = yield* sql<{ readonly count: number }>`
              select count(*)::int as count from horsies_tasks where state = 'CLAIMED'`
            const { entries, result, scanned } = yield* reading(recover)
            assert.isAtLeast(held!.count, Math.min(rows, 100))
            assert.strictEqual(result.released, held!.count)
            assert.notInclude(scanned, "horsies_tasks")
            assert.notProperty(entries, "horsies_tasks_ready")
            // Once to see which do not count yet. Also entries of claims that are over; 250 were made above.
            assert.isAtMost(entries["horsies_tasks_claimed"] ?? 0, 3 * (result.released + 250))
          }))
      }
    )
  }
}
