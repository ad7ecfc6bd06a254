/** Child processes: what they gain, and what becomes of their tasks when one of them is killed. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { SqlClient } from "effect/sql/SqlClient"
import { fork } from "node:child_process"
import * as Worker from "../../src/Worker.ts"
import { figures, quantile } from "../life/figures.ts"
import * as Machine from "../life/machine.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { quick, record, until } from "../support/worker.ts"
import { hash, HashInOne, HashInTwo, Wait } from "../worker/children/hashing.ts"

const hashing = new URL("../worker/children/hashing.ts", import.meta.url)

const start = (processes: Worker.Processes, options: Worker.Options) =>
  Layer.build(Layer.fresh(Worker.layer({ ...options, processes })))

/** Rounds that take about this many milliseconds, when nothing else runs. */
const roundsOf = (millis: number) => {
  const rounds = 20_000
  const times = Array.from({ length: 5 }, () => {
    const from = performance.now()
    hash(rounds)
    return performance.now() - from
  })
  return Math.round(rounds * millis / Math.min(...times))
}

/** Rounds per second of so many bare processes at once. */
const bare = (processes: number, rounds: number) =>
  Effect.promise(async () => {
    const children = Array.from({ length: processes }, () =>
      fork(new URL("hashing.ts", import.meta.url), [String(rounds), "1000"]))
    const message = (child: (typeof children)[number]) =>
      new Promise((resolve) => child.once("message", resolve))
    await Promise.all(children.map(message))
    const rates = children.map(message)
    for (const child of children) child.send("go")
    return (await Promise.all(rates)).reduce((sum: number, rate) => sum + Number(rate), 0)
  })

layer(TestBroker.layer, { excludeTestServices: true, timeout: "60 seconds" })("child processes", (it) => {
  it.effect(
    "two hash at least 1.7 times as much as one, on two processors; heartbeats stay on time",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        const tasks = 10
        const rounds = roundsOf(100)

        const worker = Effect.fnUntraced(function*(count: number, task: typeof HashInOne | typeof HashInTwo) {
          const queues = { [task.queue]: { concurrency: 1 } }
          yield* start({ module: hashing, count }, { heartbeatInterval: "1 second", queues })
          const warm = yield* Effect.forEach(Array.from({ length: 4 }), () => task.send({ rounds: 1000 }))
          for (const handle of warm) yield* handle.await
          // The one that is held ready starts after the others, which is work for the processors, too.
          yield* until(`
            select count(*) filter (where process->>'memory' is not null) = ${count + 1}
            from (
              select s.processes from horsies_worker_states s join horsies_heartbeats b using (worker)
              where b.queues = array['${task.queue}'] order by s.taken_at desc limit 1
            ) last, json_array_elements(last.processes) process`)
          /** Rounds per second, and how many of its children were busy. */
          return Effect.gen(function*() {
            const from = performance.now()
            const handles = yield* Effect.forEach(
              Array.from({ length: tasks * count }),
              () => task.send({ rounds }),
              { concurrency: "unbounded" }
            )
            const runs = yield* Effect.forEach(handles, (handle) => handle.await)
            const took = performance.now() - from
            assert.strictEqual(new Set(runs.map(({ pid }) => pid)).size, count)
            return {
              rate: tasks * count * rounds / took * 1000,
              busy: runs.reduce((sum, { millis }) => sum + millis, 0) / took
            }
          })
        })
        const inOne = yield* worker(1, HashInOne)
        const inTwo = yield* worker(2, HashInTwo)

        /** How old the last heartbeat of a worker ever was, in milliseconds. */
        const ages: Array<number> = []
        yield* sql<{ readonly age: number }>`
          select max(extract(epoch from clock_timestamp() - beat_at) * 1000)::float8 as age from horsies_heartbeats`
          .pipe(
            Effect.tap(([row]) => Effect.sync(() => ages.push(row!.age))),
            Effect.repeat(Schedule.spaced("50 millis")),
            Effect.forkScoped
          )

        // One after the other, again and again: the machine is not always the same.
        const found = yield* Effect.forEach(Array.from({ length: 5 }), () =>
          Effect.gen(function*() {
            const aloneOne = yield* bare(1, rounds)
            const one = yield* inOne
            const aloneTwo = yield* bare(2, rounds)
            const two = yield* inTwo
            const machine = aloneTwo / aloneOne
            const gain = two.rate / one.rate
            // A machine that is busy with other things gives two bare processes less than twice as much, too.
            return { gain, machine, ofMachine: gain / Math.min(1, machine / 2), one: one.busy, two: two.busy }
          }))
        const median = (of: (round: (typeof found)[number]) => number) => quantile(found.map(of), 0.5)
        const age = Math.max(...ages)
        figures("100 ms of hashing, medians", {
          "two children to one": median(({ gain }) => gain),
          "two bare processes to one": median(({ machine }) => machine),
          "two to one, if the machine gave two": median(({ ofMachine }) => ofMachine),
          "one was busy": median(({ one }) => one),
          "of two were busy": median(({ two }) => two),
          "oldest heartbeat (ms)": age
        })
        assert.isBelow(age, 2000)
        // Hardly ever does one of them wait for a task, however long the machine takes for each.
        assert.isAtLeast(median(({ two }) => two), 1.7)
        assert.isAtLeast(median(({ ofMachine }) => ofMachine), 1.7)
      }),
    180_000
  )

  it.effect(
    "of one of four that is killed, the tasks run again within a second; those of the others do not notice",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        yield* start({ module: hashing, count: 4 }, { ...quick, concurrency: 7 })
        const waits = (count: number, millis: number) =>
          Effect.forEach(Array.from({ length: count }), () => Wait.send({ millis }))
        const machine = yield* Machine.probe
        const handles = yield* waits(20, 3000)
        yield* until("select count(*) = 20 from horsies_tasks where queue = 'waits' and state = 'CLAIMED'")
        // What is claimed has started as soon as a later one has ended.
        const [last] = yield* waits(1, 0)
        const victim = yield* last!.await
        const [before] = yield* sql<{ readonly at: number }>`
        select (extract(epoch from clock_timestamp()) * 1000)::float8 as at`
        process.kill(victim, "SIGKILL")
        const pids = yield* Effect.forEach(handles, (handle) => handle.await)
        assert.notInclude(pids, victim)

        const records = yield* Effect.forEach(handles, ({ id }) => record(id))
        const again = records.filter(({ losses }) => losses > 0)
        for (const { history, losses } of records) {
          assert.deepStrictEqual(
            history.map(({ outcome }) => outcome),
            losses > 0 ? ["Lost", "Completed"] : ["Completed"]
          )
        }
        assert.lengthOf(again, 5)
        const late = again.map(({ history }) => history[1]!.startedAt! - before!.at)
        figures("one of four killed", { "tasks": again.length, "the last ran again after (ms)": Math.max(...late) })
        assert.isBelow(Math.max(...late), 1000 + machine.beyond(0.99))
      }),
    120_000
  )
})
