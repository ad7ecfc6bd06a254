/** `horsies worker`, as a process that gets signals. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { outcomes, record, until } from "../support/worker.ts"
import * as horsies from "./horsies.ts"
import { Pid, Wait } from "./tasks.ts"

/** A busy machine takes its time to start programs. */
const slow = 90_000

const prepare = Effect.gen(function*() {
  const sql = yield* SqlClient
  yield* sql`drop table if exists gate, events`
  yield* sql`create table gate ()`
  yield* sql`create table events (what text, n int)`
  return sql
})

const begun = (n: number) => until(`select exists (select from events where what = 'begun' and n = ${n})`)

/** The port that the health server has found. */
const portOf = (errors: string) => /Listening on \S*:(\d+)/.exec(errors)?.[1] ?? assert.fail(errors)

/** The code and the text of an answer. */
const get = (url: string) =>
  Effect.promise(async () => {
    const response = await fetch(url)
    return { code: response.status, body: await response.json() as Record<string, unknown> }
  })

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("horsies worker", (it) => {
  it.effect(
    "runs the tasks of its module; after SIGTERM it waits for what runs, takes nothing new, and ends with 0",
    () =>
      Effect.gen(function*() {
        const sql = yield* prepare
        const worker = yield* horsies.worker("--concurrency", "1", "--health-port", "0")
        assert.strictEqual(yield* Effect.flatMap(Pid.send({}), (handle) => handle.await), worker.pid)
        const [first, ...others] = yield* Effect.forEach([1, 2, 3], (n) => Wait.send({ n }))
        yield* begun(1)
        const address = `http://127.0.0.1:${portOf(worker.errors())}`
        assert.strictEqual((yield* get(`${address}/ready`)).code, 200)
        const health = yield* get(`${address}/health`)
        assert.deepInclude(health, { code: 200 })
        assert.deepInclude(health.body, { status: "ok", stopping: false, running: 1 })

        yield* worker.signal("SIGTERM")
        yield* Effect.repeat(get(`${address}/ready`), {
          until: ({ code }) => code === 503,
          schedule: Schedule.spaced("20 millis")
        })
        assert.strictEqual((yield* get(`${address}/health`)).code, 200)
        // The other layer of handlers is still there, and takes nothing either.
        const late = yield* Pid.send({})
        yield* sql`alter table gate add column open int`
        yield* sql`insert into gate values (1)`
        assert.strictEqual((yield* horsies.end(worker)).code, 0)
        assert.strictEqual((yield* record(first!.id)).state, "COMPLETED")
        for (const { id } of [...others, late]) {
          const { attempts, losses, state } = yield* record(id)
          assert.deepStrictEqual({ attempts, losses, state }, { attempts: 0, losses: 0, state: "PENDING" })
        }
        assert.deepStrictEqual(yield* sql`select pid from horsies_heartbeats where pid = ${worker.pid}`, [])
        yield* Broker.use((broker) => broker.cancel({}))
      }),
    slow
  )

  it.effect("a second signal interrupts at once what runs, which is handed back", () =>
    Effect.gen(function*() {
      const sql = yield* prepare
      const worker = yield* horsies.worker("--shutdown-timeout", "10 minutes")
      const handle = yield* Wait.send({ n: 1 })
      yield* begun(1)
      yield* worker.signal("SIGTERM")
      const interrupted = Effect.map(
        sql`select from events where what = 'interrupted'`,
        (rows) => rows.length > 0
      )
      // The first of them may come too soon after the one before to be another one, and the last when it has ended.
      yield* Effect.repeat(
        Effect.andThen(Effect.exit(worker.signal("SIGTERM")), interrupted),
        { until: (is) => is, schedule: Schedule.spaced("100 millis") }
      )
      assert.strictEqual((yield* horsies.end(worker)).code, 0)
      const { attempts, losses, state } = yield* record(handle.id)
      assert.deepStrictEqual({ attempts, losses, state }, { attempts: 0, losses: 0, state: "PENDING" })
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Shutdown"])
      yield* Broker.use((broker) => broker.cancel({}))
    }), slow)

  it.effect(
    "runs the module in child processes, and serves only the queues that it is given",
    () =>
      Effect.gen(function*() {
        yield* prepare
        const worker = yield* horsies.worker("--processes", "1", "--queues", "default,other", "--concurrency", "2")
        const unserved = yield* Wait.send({ n: 1 })
        const pid = yield* Effect.flatMap(Pid.send({}), (handle) => handle.await)
        assert.notStrictEqual(pid, worker.pid)
        assert.strictEqual((yield* record(unserved.id)).state, "PENDING")
        // As a terminal does: the children leave it to their worker.
        yield* worker.signalGroup("SIGINT")
        assert.strictEqual((yield* horsies.end(worker)).code, 0)
        // The log of the children is where that of the worker is.
        assert.include(worker.errors(), "telling the pid")
        assert.strictEqual(worker.output(), "")
        yield* Broker.use((broker) => broker.cancel({}))
      }),
    slow
  )
})
