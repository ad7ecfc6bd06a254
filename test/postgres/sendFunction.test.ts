/** `horsies_send`: what psql, triggers and other languages send is a task like any other. */
import { assert, layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { record, start, until } from "../support/worker.ts"

class FromSql extends Task.make("FromSql", {
  payload: { n: Schema.Int },
  success: Schema.Int,
  queue: "sql",
  priority: 7,
  timeout: "1 minute",
  idempotencyWindow: "2 days"
}) {}

const handled = FromSql.toLayer(({ n }) => Effect.succeed(n * 2))

const one = <A>(statement: string) =>
  Effect.flatMap(SqlClient, (sql) => Effect.map(sql.unsafe(statement).values, ([row]) => row?.[0] as A))

/** What the server says to a statement that it refuses. */
const refusal = Effect.fnUntraced(function*(statement: string) {
  const exit = yield* Effect.exit(one(statement))
  return Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "no refusal"
})

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("horsies_send", (it) => {
  it.effect("refuses a name that no worker has made known, unless it is told the queue", () =>
    Effect.gen(function*() {
      assert.include(yield* refusal(`select horsies_send('Unknown', '{}')`), "no worker has made a task named Unknown")
      const id = yield* one<string>(`select horsies_send('Unknown', '{}', queue => 'elsewhere')`)
      const { priority, queue, state } = yield* record(id)
      assert.deepStrictEqual({ priority, queue, state }, { priority: 100, queue: "elsewhere", state: "PENDING" })
    }))

  it.effect("refuses an id that is no UUIDv7: nobody could find its task later", () =>
    Effect.gen(function*() {
      const id = "7f0c8a52-3a7e-4a53-9d5c-0d3d1a6a6a6a"
      assert.include(
        yield* refusal(`select horsies_send('Unknown', '{}', queue => 'elsewhere', id => '${id}')`),
        `horsies_send: id is ${id}; write a UUIDv7`
      )
    }))

  it.effect("sends what a worker runs, with the definition's defaults, and wakes it", () =>
    Effect.gen(function*() {
      yield* start(handled)
      yield* until("select exists (select from horsies_definitions where name = 'FromSql')")
      const id = yield* one<string>(`select horsies_send('FromSql', '{"n": 21}')`)
      assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-/)
      assert.strictEqual(yield* FromSql.await(id), 42)
      const { priority, queue, timeout } = yield* record(id)
      assert.deepStrictEqual({ priority, queue, timeout }, { priority: 7, queue: "sql", timeout: 60_000 })
    }))

  it.effect("takes everything that a send can say", () =>
    Effect.gen(function*() {
      const id = yield* one<string>(`select horsies_send('FromSql', '{"n": 1}', 'other', priority => 3,
        delay => '1 hour', good_until => now() + interval '1 day', timeout => '5 seconds', concurrency_key => 'tenant',
        idempotency_key => 'once', tags => '{"color": "red"}', version => 2)`)
      const task = yield* record(id)
      assert.deepInclude(task, {
        queue: "other",
        priority: 3,
        timeout: 5000,
        concurrencyKey: "tenant",
        tags: { color: "red" },
        version: 2
      })
      assert.approximately(task.dueAt - task.sentAt, 3_600_000, 1000)
      assert.approximately(task.goodUntil! - task.sentAt, 86_400_000, 1000)
      const again = yield* one<string>(`select horsies_send('FromSql', '{"n": 2}', 'other', idempotency_key => 'once')`)
      assert.strictEqual(again, id)
    }))

  it.effect("is safe to repeat with an id, and refuses it for something else", () =>
    Effect.gen(function*() {
      const id = "01990000-0000-7000-8000-000000000001"
      const send = (payload: string) => `select horsies_send('FromSql', '${payload}', 'other', id => '${id}')`
      assert.strictEqual(yield* one<string>(send("{\"n\": 1}")), id)
      assert.strictEqual(yield* one<string>(send("{\"n\": 1}")), id)
      assert.include(yield* refusal(send("{\"n\": 2}")), `there is another task with the id ${id}`)
    }))

  it.effect("keeps an idempotency key for as long as the definition says, unless it is told another time", () =>
    Effect.gen(function*() {
      yield* start(handled)
      const daysOf = (key: string) =>
        one<number>(
          `select round(extract(epoch from expires_at - now()) / 86400)::int from horsies_idempotency_keys where key = '${key}'`
        )
      yield* one(`select horsies_send('FromSql', '{"n": 1}', idempotency_key => 'as defined')`)
      assert.strictEqual(yield* daysOf("as defined"), 2)
      yield* one(
        `select horsies_send('FromSql', '{"n": 1}', idempotency_key => 'told', idempotency_window => '3 days')`
      )
      assert.strictEqual(yield* daysOf("told"), 3)
      yield* one(`select horsies_send('Unknown', '{}', queue => 'elsewhere', idempotency_key => 'of nobody')`)
      assert.strictEqual(yield* daysOf("of nobody"), 1)
    }))

  it.effect("is part of the transaction that calls it", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      let sent = ""
      yield* Effect.exit(sql.withTransaction(Effect.gen(function*() {
        sent = yield* one<string>(`select horsies_send('FromSql', '{"n": 1}', 'other')`)
        return yield* Effect.fail("roll back")
      })))
      assert.deepStrictEqual(yield* Broker.use((broker) => broker.find(sent)), Option.none())
    }))

  it.effect("refuses what no send could say, and says what to write instead", () =>
    Effect.gen(function*() {
      for (
        const [args, message] of [
          ["priority => 101", "write a number from 1 to 100"],
          ["delay => '1 hour', run_at => now()", "give delay or run_at, not both"]
        ] as const
      ) {
        assert.include(yield* refusal(`select horsies_send('FromSql', '{}', 'other', ${args})`), message)
      }
    }))

  it.effect("can be called by a trigger", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* start(handled)
      yield* sql`create table uploads (n integer, task uuid)`
      yield* sql`create function send_upload() returns trigger language plpgsql as $$
        begin
          new.task := horsies_send('FromSql', json_build_object('n', new.n), queue => 'sql');
          return new;
        end $$`
      yield* sql`create trigger on_upload before insert on uploads for each row execute function send_upload()`
      const id = yield* one<string>("insert into uploads values (4) returning task")
      assert.strictEqual(yield* FromSql.await(id), 8)
    }))
})
