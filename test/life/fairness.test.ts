/** One busy key among others. */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Broker, type Want } from "../../src/Broker.ts"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import { claim, completed, ended, finish, startWorker, want } from "../contract/Harness.ts"
import { reading } from "../postgres/reading.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { start } from "../support/worker.ts"
import { figures, quantile } from "./figures.ts"
import { Keyed } from "./tasks.ts"

const keys = Array.from({ length: 50 }, (_, i) => `key ${i}`)

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("a key with 10,000 tasks", (it) => {
  it.effect("keeps 50 keys with 10 each waiting for less than 50 of its runs, at a concurrency of 8", () =>
    Effect.gen(function*() {
      yield* Keyed.sendMany(Array.from({ length: 10_000 }, () => ({ key: "hot" })))
      yield* Keyed.sendMany(keys.flatMap((key) => Array.from({ length: 10 }, () => ({ key }))))
      let hot = 0
      let others = 0
      const through = yield* Deferred.make<number>()
      yield* start(
        Keyed.toLayer(({ key }) =>
          Effect.gen(function*() {
            if (key === "hot") hot++
            yield* Effect.yieldNow
            if (key !== "hot" && ++others === 500) yield* Deferred.succeed(through, hot)
          })
        ),
        { queues: { keyed: { concurrency: 8 } } }
      )
      const runs = yield* Deferred.await(through).pipe(Effect.timeout("20 seconds"))
      figures("50 keys × 10 beside a hot key", { "runs of the hot key meanwhile": runs })
      assert.isBelow(runs, 50)
    }))
})

/**
 * One connection, so that the counters tell what its statements have read, to a server where nobody else is: what counts the
 * claimed tasks of a queue with limits reads over those of before while a transaction of others, or autovacuum, holds them.
 */
const counted = PostgresBroker.layerSqlClient().pipe(
  Layer.provideMerge(
    Layer.unwrap(
      Effect.map(EmbeddedPostgres.EmbeddedPostgres, ({ url }) => PgClient.layer({ url, maxConnections: 1 }))
    )
  ),
  Layer.provide(EmbeddedPostgres.layer({ durable: false, settings: { autovacuum: false } }))
)

layer(counted, { excludeTestServices: true, timeout: "60 seconds" })("a key with 1,000,000 tasks", (it) => {
  it.effect(
    "no claim that starts at its marks reads more than 2,000 rows, with limits and without",
    () =>
      Effect.gen(function*() {
        const sql = yield* PgClient.PgClient
        const broker = yield* Broker
        const fill = (queue: string, count: number, key: string) =>
          sql`insert into horsies_tasks (id, run_at, sent_at, priority, due, queue, name, payload, concurrency_key)
          select gen_random_uuid(), now() - (${count}::int - i) * interval '10 milliseconds', now(), 100, true, ${queue},
            'a', 'null', ${key}
          from generate_series(1, ${count}::int) i`
        // As claims are made durable: the server marks dead entries of an index only once their commit is on the disk.
        yield* sql`set synchronous_commit = on`
        yield* fill("open", 1_000_000, "hot")
        yield* fill("limited", 1_000_000, "hot")
        for (const queue of ["open", "limited"]) for (const key of keys) yield* fill(queue, 10, key)
        yield* broker.configureQueue("limited", { limits: { concurrency: 600, perKey: { concurrency: 550 } } })
        const worker = yield* startWorker

        const reads: Record<string, Array<number>> = {}
        const counts: Array<number> = []
        const claimed: Record<string, number> = {}
        const start = Date.now()
        const step = Effect.fnUntraced(function*(what: string, options: Omit<Partial<Want>, "queue" | "handles">) {
          for (const queue of ["open", "limited"]) {
            const { entries, result, scanned } = yield* reading(
              claim(worker, want(queue, { names: ["a"], ...options }))
            )
            assert.deepStrictEqual(scanned, [])
            // Everything that it looks at to find tasks: the primary key is for those that it has found.
            const { horsies_tasks_counted: held = 0, horsies_tasks_pkey: _, ...looks } = entries
            const name = `${queue}, ${what}`
            ;(reads[name] ??= []).push(Object.values(looks).reduce((sum, count) => sum + count, 0))
            if (queue === "limited") counts.push(held)
            claimed[name] = (claimed[name] ?? 0) + result.length
            assert.isAbove(result.length, 0)
            yield* finish(worker, ...result.map((task) => ended(task, completed())))
          }
        })
        for (let i = 0; i < 50; i++) yield* step("8 slots", { slots: 8, ahead: 0 })
        for (let i = 0; i < 20; i++) yield* step("8 slots and 492 ahead", { slots: 8, ahead: 492 })
        for (let i = 0; i < 20; i++) yield* step("500 slots", { slots: 500, ahead: 0 })
        // Every 5 seconds a claim of each queue goes without marks, and reads whatever a snapshot keeps.
        const without = Math.ceil((Date.now() - start) / 5000)
        for (const [name, rows] of Object.entries(reads)) {
          rows.sort((a, b) => b - a)
          figures(`a claim beside 1,000,000 of one key: ${name}`, {
            "rows read at most": rows[0]!,
            [`but for ${without}`]: rows[without]!,
            "claimed": claimed[name]!
          })
        }
        figures("to keep limits", { "entries counted at most": Math.max(...counts), "median": quantile(counts, 0.5) })
        for (const queue of ["open", "limited"]) {
          const ofQueue = Object.entries(reads).flatMap(([name, rows]) => name.startsWith(queue) ? rows : [])
          assert.isAtMost(ofQueue.sort((a, b) => b - a)[without]!, 2000, queue)
        }
        // Counts have no marks: a snapshot keeps for them what has ended.
        assert.isAtMost(quantile(counts, 0.5), 2000)
      }),
    180_000
  )
})
