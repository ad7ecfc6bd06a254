/** What holds over several worker processes. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import { fileURLToPath } from "node:url"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import * as program from "../support/program.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { record, until } from "../support/worker.ts"
import { figures, quantile } from "./figures.ts"
import * as Machine from "./machine.ts"
import { Endless, Noted } from "./tasks.ts"

const file = fileURLToPath(new URL("notingWorker.ts", import.meta.url))

/** Starts worker processes, and waits until all of them are known. */
const startWorkers = Effect.fnUntraced(function*(count: number) {
  const sql = yield* SqlClient
  const { url } = yield* TestDatabase
  yield* sql`create table if not exists runs (n int, pid int, begun timestamptz, slept text, ended timestamptz)`
  yield* sql`create table if not exists events (what text, pid int, at timestamptz default clock_timestamp())`
  const pids: Array<number> = []
  for (let i = 0; i < count; i++) pids.push((yield* program.start(file, { args: [Redacted.value(url)] })).pid)
  yield* until(
    `select count(distinct pid) = ${count} from horsies_heartbeats
      where pid = any ('{${pids.join()}}') and cardinality(names) = 2`
  )
})

interface Run {
  readonly begun: number
  readonly ended: number
}

/**
 * Processes and connections that have just begun compile whatever they do for the first time, which takes each connection 50
 * milliseconds and more: for this long, in milliseconds, places stay free for longer.
 */
const beginning = 2000

/**
 * How many ran at once at most; when less than `full` ran while others still waited; and how long each place was free. In
 * milliseconds.
 */
const occupancy = (runs: ReadonlyArray<Run>, full: number) => {
  const lastBegun = Math.max(...runs.map(({ begun }) => begun))
  const steps = runs
    .flatMap(({ begun, ended }) => [{ at: begun, change: 1 }, { at: ended, change: -1 }])
    // One that ends at the very moment at which another begins has ended before.
    .toSorted((a, b) => a.at - b.at || a.change - b.change)
  let running = 0
  let most = 0
  const from = steps[0]!.at
  let since = from
  const gaps: Array<{ readonly from: number; readonly to: number }> = []
  for (const { at, change } of steps) {
    if (change === 1 && running === full - 1 && at <= lastBegun) gaps.push({ from: since, to: at })
    running += change
    if (change === -1 && running === full - 1) since = at
    most = Math.max(most, running)
  }
  const begins = runs.map(({ begun }) => begun).toSorted((a, b) => a - b)
  const ends = runs.map(({ ended }) => ended).toSorted((a, b) => a - b)
  const vacancies = begins.slice(full).map((begun, i) => begun - ends[i]!)
  const early = gaps.filter(({ to }) => to - from < beginning)
  return { most, early, later: gaps.slice(early.length), vacancies }
}

const lengthsOf = (gaps: ReadonlyArray<{ readonly from: number; readonly to: number }>) =>
  gaps.map(({ from, to }) => to - from)

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("several worker processes", (it) => {
  it.effect(
    "of a queue with a cap of 5, four processes run 2,000 tasks: never 6 at once, and 5 while tasks wait",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        const broker = yield* Broker
        const count = 2000
        yield* broker.configureQueue("noted", { paused: true })
        yield* Noted.sendMany(Array.from({ length: count }, (_, n) => ({ n, millis: 50 + (n * 7) % 21 })))
        yield* startWorkers(4)
        const machine = yield* Machine.probe
        yield* broker.configureQueue("noted", { paused: false })
        yield* Effect.repeat(sql`select from horsies_tasks where queue = 'noted' limit 1`, {
          until: (rows) => rows.length === 0
        }).pipe(Effect.timeout("60 seconds"))

        const runs = yield* sql<Run & { readonly n: number; readonly pid: number }>`
        select n, pid, (extract(epoch from begun) * 1000)::float8 as begun,
          (extract(epoch from ended) * 1000)::float8 as ended
        from runs`
        assert.deepStrictEqual(
          runs.map(({ n }) => n).toSorted((a, b) => a - b),
          Array.from({ length: count }, (_, n) => n)
        )
        assert.strictEqual(new Set(runs.map(({ pid }) => pid)).size, 4)
        const { early, later, most, vacancies } = occupancy(runs, 5)
        const worked = runs.reduce((sum, { begun, ended }) => sum + ended - begun, 0)
        const took = Math.max(...runs.map(({ ended }) => ended)) - Math.min(...runs.map(({ begun }) => begun))
        figures("cap 5, 4 processes, 2,000 tasks", {
          "most at once": most,
          "longest time below 5 (ms)": Math.max(...lengthsOf(later)),
          "p99 ": quantile(lengthsOf(later), 0.99),
          "in the beginning": Math.max(...lengthsOf(early)),
          "a place was free (ms), p50": quantile(vacancies, 0.5),
          "p99": quantile(vacancies, 0.99),
          "most": Math.max(...vacancies),
          "mean at once": worked / took,
          "took (s)": took / 1000,
          "the machine was late (ms), p99": machine.late(0.99)
        })
        assert.strictEqual(most, 5)
        // On a machine with nothing else to do it is never more than 100. Beside others, a connection that is opened meanwhile may
        // take longer.
        assert.isAtMost(quantile(lengthsOf(later), 0.99), 100)
        assert.isAtMost(Math.max(...later.map(({ from, to }) => to - from - machine.beyondBetween(from, to))), 300)
      }),
    120_000
  )

  it.effect(
    "a cancelled task stops in the other process that runs it within a second, and its finalizers run",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        const broker = yield* Broker
        yield* startWorkers(1)
        const handle = yield* Endless.send()
        yield* until("select exists (select from events where what = 'started')")
        const [before] = yield* sql<
          { readonly at: number }
        >`select (extract(epoch from clock_timestamp()) * 1000)::float8 as at`
        assert.deepStrictEqual(yield* broker.cancel({ ids: [handle.id] }), { cancelled: [], requested: [handle.id] })
        assert.instanceOf(yield* Effect.flip(handle.await), Task.TaskCancelled)
        const events = yield* sql<{ readonly what: string; readonly at: number }>`
        select what, (extract(epoch from at) * 1000)::float8 as at from events order by at`
        assert.deepStrictEqual(events.map(({ what }) => what), ["started", "interrupted", "finalized"])
        const stopped = events[1]!.at - before!.at
        figures("cancel in another process", { "handler stopped after (ms)": stopped })
        assert.isBelow(stopped, 1000)
        const { history, state } = yield* record(handle.id)
        assert.strictEqual(state, "CANCELLED")
        assert.deepStrictEqual(history.map(({ outcome }) => outcome), ["Cancelled"])
      }),
    60_000
  )
})
