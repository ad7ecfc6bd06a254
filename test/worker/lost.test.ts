import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import { SqlClient } from "effect/sql/SqlClient"
import { fileURLToPath } from "node:url"
import { eventually } from "../support/eventually.ts"
import * as program from "../support/program.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { outcomes, quick, record, start, until } from "../support/worker.ts"
import { Held } from "./tasks.ts"

const count = 100

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("lost workers", (it) => {
  it.effect("the tasks of a worker killed with SIGKILL run elsewhere within lease and interval, once each", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const { url } = yield* TestDatabase
      yield* Held.sendMany(Array.from({ length: count }, (_, n) => ({ n })))
      const victim = yield* program.start(fileURLToPath(new URL("holdingWorker.ts", import.meta.url)), {
        args: [Redacted.value(url)]
      })
      yield* until(`select count(*) = ${count} from horsies_tasks where state = 'CLAIMED'`)

      const runs: Array<number> = []
      const all = yield* Deferred.make<void>()
      yield* start(Held.toLayer(({ n }) =>
        Effect.gen(function*() {
          if (runs.push(n) === count) yield* Deferred.succeed(all, undefined)
          return n
        })
      ))
      assert.deepStrictEqual(runs, [], "the tasks are held")
      yield* victim.signalGroup("SIGKILL")
      yield* Deferred.await(all).pipe(Effect.timeout(1500 + 500 + 250))
      yield* until(`select count(*) = ${count} from horsies_history`)

      assert.deepStrictEqual(runs.sort((a, b) => a - b), Array.from({ length: count }, (_, n) => n))
      const rows = yield* sql`
        select state::text, losses, attempts, count(*)::int, count(distinct id)::int as ids, min(past[1]->>'outcome') as past
        from horsies_history group by 1, 2, 3`
      assert.deepStrictEqual(rows, [{ state: "COMPLETED", losses: 1, attempts: 1, count, ids: count, past: "Lost" }])
    }))

  it.effect(
    "a worker that is frozen loses its task; when it goes on, it interrupts the handler, and comes back without having recorded anything",
    () =>
      Effect.gen(function*() {
        const { url } = yield* TestDatabase
        const handle = yield* Held.send({ n: 1 })
        const victim = yield* program.start(fileURLToPath(new URL("holdingWorker.ts", import.meta.url)), {
          args: [Redacted.value(url)]
        })
        yield* Effect.repeat(record(handle.id), {
          until: ({ state }) => state === "CLAIMED",
          schedule: Schedule.spaced("20 millis")
        })
        yield* victim.signal("SIGSTOP")
        yield* start(Held.toLayer(({ n }) => Effect.succeed(n)))
        assert.strictEqual(yield* handle.await, 1)
        assert.notInclude(victim.output(), "interrupted")
        yield* victim.signal("SIGCONT")
        yield* eventually("the end of the handler", () => victim.output().includes("interrupted"), 20)
        // It forgets its old self only when everything is recorded that it has to say.
        const sql = yield* SqlClient
        yield* Effect.repeat(
          sql<{ readonly back: boolean | null }>`
            select count(*) = 1 and bool_and(died_at is null) as back from horsies_heartbeats where pid = ${victim.pid}`,
          { until: ([row]) => row!.back === true, schedule: Schedule.spaced("20 millis") }
        )
        yield* victim.signalGroup("SIGKILL")
        const { fence, losses } = yield* record(handle.id)
        assert.deepStrictEqual([fence, losses], [2, 1])
        assert.deepStrictEqual(yield* outcomes(handle.id), ["Lost", "Completed"])
      }),
    60_000
  )

  it.effect("a worker that was declared dead interrupts its handlers, records nothing and comes back", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const started = yield* Deferred.make<void>()
      const interrupted = yield* Deferred.make<void>()
      let runs = 0
      yield* start(
        Held.toLayer(({ n }) =>
          Effect.suspend(() =>
            ++runs > 1 ? Effect.succeed(n) : Deferred.succeed(started, undefined).pipe(
              Effect.andThen(Effect.never),
              Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined))
            )
          )
        )
      )
      const handle = yield* Held.send({ n: 7 })
      yield* Deferred.await(started)
      const [before] = yield* sql`select worker from horsies_tasks where id = ${handle.id}`
      yield* sql`update horsies_heartbeats set died_at = now()`

      yield* Deferred.await(interrupted)
      assert.strictEqual(yield* handle.await, 7)
      const [after] = yield* sql`select worker, attempts, fence from horsies_history where id = ${handle.id}`
      assert.strictEqual(after?.["attempts"], 1)
      // A claim that was under way when it was declared dead may have landed after that, and be handed back.
      assert.isAtLeast(Number(after?.["fence"]), 2)
      assert.notStrictEqual(after?.["worker"], before?.["worker"])
    }))

  it.effect("a worker that cannot renew its lease gives up before the lease is over", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const started = yield* Deferred.make<void>()
      const interrupted = yield* Deferred.make<number>()
      yield* start(
        Held.toLayer(() =>
          Deferred.succeed(started, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.onInterrupt(() =>
              Effect.flatMap(Effect.sync(() => performance.now()), (at) => Deferred.succeed(interrupted, at))
            )
          )
        ),
        { ...quick, heartbeatInterval: "400 millis", lease: "1200 millis" }
      )
      yield* Held.send({ n: 1 })
      yield* Deferred.await(started)
      const reserved = yield* sql.reserve
      yield* reserved.executeRaw("begin", [])
      yield* reserved.executeRaw("lock table horsies_heartbeats in access exclusive mode", [])
      const at = performance.now()
      const gaveUp = yield* Deferred.await(interrupted).pipe(Effect.timeout("3 seconds"))
      yield* reserved.executeRaw("rollback", [])
      assert.isBelow(gaveUp - at, 1200)
      yield* Effect.repeat(sql`select from horsies_tasks where state = 'CLAIMED'`, {
        until: (rows) => rows.length === 1,
        schedule: Schedule.spaced("10 millis")
      }).pipe(Effect.timeout("5 seconds"))
      const [row] = yield* sql`select losses, attempts from horsies_tasks`
      assert.deepStrictEqual(row, { losses: 0, attempts: 0 })
    }))
})
