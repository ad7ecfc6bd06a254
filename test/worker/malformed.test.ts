/** Rows that no sender of ours would have written: the worker deals with each as designed, and lives on. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { record, start } from "../support/worker.ts"

/** What its handler was given, it gives back. */
class Any extends Task.make("Any", { payload: Schema.Json, success: Schema.Json, queue: "malformed" }) {}

class Strict extends Task.make("Strict", { payload: { text: Schema.String }, queue: "malformed" }) {}

interface Row {
  readonly name?: string
  /** SQL of its columns. */
  readonly payload?: string
  readonly runAt?: string
  readonly sentAt?: string
  readonly goodUntil?: string
  readonly due?: boolean
  readonly version?: number
}

/** Writes a row by hand, and wakes nobody. */
const insert = Effect.fnUntraced(function*(row: Row) {
  const sql = yield* SqlClient
  const id = yield* Task.makeId
  const { due = true, goodUntil = "null", name = "Any", payload = `'"by hand"'`, runAt = "now()", sentAt = "now()" } =
    row
  yield* sql.unsafe(
    `insert into horsies_tasks (id, name, queue, priority, version, due, payload, run_at, sent_at, good_until)
     values ($1, $2, 'malformed', 100, $3, $4, ${payload}, ${runAt}, ${sentAt}, ${goodUntil})`,
    [id, name, row.version ?? 1, due]
  )
  return id
})

/** The worker runs what is sent now, and all that was ready before. */
const livesOn = Effect.gen(function*() {
  const handle = yield* Any.send("fine")
  assert.strictEqual(yield* Effect.timeout(handle.await, "10 seconds"), "fine")
})

/** With one slot, so that each claim that finds something may leave a mark behind which others are hidden. */
const running = start(
  Any.toLayer((payload) => Effect.succeed(payload)),
  { queues: { malformed: { concurrency: 1 } } }
)

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("a row put there by hand", (it) => {
  it.effect("with a payload that does not fit the schema ends FAILED with the decode error", () =>
    Effect.gen(function*() {
      let runs = 0
      yield* start(Strict.toLayer(() => Effect.sync(() => void runs++)))
      for (const payload of [`'{"text":1}'`, `'null'`, `'[]'`, `'"text"'`, `'{}'`, `'1e400'`]) {
        const id = yield* insert({ name: "Strict", payload })
        yield* Strict.send({ text: "fine" })
        assert.instanceOf(yield* Effect.flip(Strict.await(id)), Task.DecodeError, payload)
        const { history, state } = yield* record(id)
        assert.strictEqual(state, "FAILED")
        assert.deepStrictEqual(history.map(({ outcome }) => outcome), ["Payload"])
      }
      assert.strictEqual(runs, 6)
    }))

  it.effect("with an unknown name, version or queue is left alone", () =>
    Effect.gen(function*() {
      yield* running
      const ids = [yield* insert({ name: "Nobody's" }), yield* insert({ version: 2 }), yield* insert({ name: "" })]
      yield* livesOn
      for (const id of ids) assert.strictEqual((yield* record(id)).state, "PENDING")
    }))

  for (
    const runAt of [
      "'-infinity'",
      "'4713-01-01 BC'",
      "'1969-12-31'",
      "'294276-12-31 23:59:59.999999 UTC'",
      "'infinity'"
    ]
  ) {
    it.effect(`with a ready time of ${runAt} runs when it says that it is due, and hides no other`, () =>
      Effect.gen(function*() {
        yield* running
        const id = yield* insert({ runAt, sentAt: runAt })
        yield* livesOn
        assert.strictEqual(yield* Effect.timeout(Any.await(id), "10 seconds"), "by hand")
        // By hand, and so without a wake-up.
        const next = yield* insert({})
        yield* livesOn
        assert.strictEqual(yield* Effect.timeout(Any.await(next), "10 seconds"), "by hand")
        assert.strictEqual((yield* record(id)).state, "COMPLETED")
      }))
  }

  for (const runAt of ["'294276-12-31 23:59:59.999999 UTC'", "'infinity'"]) {
    it.effect(`that is delayed until ${runAt} waits, and delays no other`, () =>
      Effect.gen(function*() {
        yield* running
        const id = yield* insert({ runAt, due: false })
        const handle = yield* Any.send("later", { delay: "50 millis" })
        assert.strictEqual(yield* Effect.timeout(handle.await, "10 seconds"), "later")
        assert.strictEqual((yield* record(id)).state, "PENDING")
        const broker = yield* Broker
        assert.strictEqual((yield* broker.whyNotRunning(id))._tag, "NotDue")
        assert.deepStrictEqual((yield* broker.cancel({ ids: [id] })).cancelled, [id])
        assert.strictEqual((yield* record(id)).state, "CANCELLED")
      }))
  }

  it.effect("that was due at the beginning of time and waits as delayed is promoted", () =>
    Effect.gen(function*() {
      yield* running
      const id = yield* insert({ runAt: "'-infinity'", due: false })
      yield* Any.send("wake up", { delay: "10 millis" })
      assert.strictEqual(yield* Effect.timeout(Any.await(id), "10 seconds"), "by hand")
    }))

  it.effect("that is good until the end of time runs; until its beginning, expires", () =>
    Effect.gen(function*() {
      const over = yield* Effect.forEach(["'-infinity'", "'4713-01-01 BC'"], (goodUntil) => insert({ goodUntil }))
      const good = yield* Effect.forEach(
        ["'infinity'", "'294276-12-31 23:59:59.999999 UTC'"],
        (goodUntil) => insert({ goodUntil })
      )
      yield* running
      yield* livesOn
      for (const id of good) assert.strictEqual(yield* Effect.timeout(Any.await(id), "10 seconds"), "by hand")
      for (const id of over) {
        assert.instanceOf(yield* Effect.flip(Effect.timeout(Any.await(id), "10 seconds")), Task.TaskExpired)
      }
    }))

  const texts = {
    "NUL": `"a\\u0000b"`,
    "astral characters": `"🐎 \\ud83d\\udc0e"`,
    "lone surrogates": `"\\ud83d \\udc0e"`,
    "a key twice": `{"a":1,"a":2}`,
    "1 MB": JSON.stringify("x".repeat(1_000_000)),
    "7 MB": JSON.stringify("x".repeat(7_000_000)),
    "2,000 levels": `${"[".repeat(2000)}${"]".repeat(2000)}`
  }
  for (const [what, json] of Object.entries(texts)) {
    it.effect(`whose payload has ${what} runs with it, and its result has it too`, () =>
      Effect.gen(function*() {
        yield* running
        const id = yield* insert({ payload: `$json$${json}$json$` })
        yield* livesOn
        const result = yield* Effect.timeout(Effect.exit(Any.await(id)), "10 seconds")
        // More than 4,000,000 characters are not kept as a result.
        if (json.length > 4_000_000) assert.strictEqual((yield* record(id)).state, "FAILED")
        else {assert.strictEqual(
            JSON.stringify(Exit.isSuccess(result) && result.value),
            JSON.stringify(JSON.parse(json))
          )}
      }))
  }

  it.effect("whose payload is too large to be read ends FAILED, and can be looked up and sent again", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      yield* running
      const id = yield* insert({ payload: `to_json(repeat('x', 20000000))` })
      const random = yield* insert({
        payload: `to_json((select string_agg(gen_random_uuid()::text, '') from generate_series(1, 555555)))`
      })
      const fine = yield* insert({})
      yield* livesOn
      for (const large of [id, random]) {
        assert.instanceOf(yield* Effect.flip(Effect.timeout(Any.await(large), "10 seconds")), Task.DecodeError)
      }
      assert.strictEqual(yield* Effect.timeout(Any.await(fine), "10 seconds"), "by hand")
      assert.strictEqual((yield* record(id)).state, "FAILED")
      assert.includeMembers(
        (yield* broker.list({ queue: "malformed" }, { states: ["FAILED"] })).map((task) => task.id),
        [
          id,
          random
        ]
      )
      const again = yield* broker.resend({ ids: [id] })
      assert.lengthOf(again, 1)
      assert.instanceOf(yield* Effect.flip(Effect.timeout(Any.await(again[0]!.id), "10 seconds")), Task.DecodeError)
      yield* livesOn
    }))
})
