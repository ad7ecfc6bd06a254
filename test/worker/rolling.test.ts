/** Old and new versions of a program side by side on one schema, as while a new one is rolled out. */
import { assert, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as SchemaInitializer from "../../src/schema/SchemaInitializer.ts"
import * as Task from "../../src/Task.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { record, start } from "../support/worker.ts"
import { Held } from "./tasks.ts"

const common = { success: Schema.String, queue: "rolling" } as const

class Before extends Task.make("Greeting", { payload: { name: Schema.String }, ...common }) {}

class After extends Task.make("Greeting", {
  payload: { names: Schema.Array(Schema.String) },
  version: 2,
  upgrade: { 1: (encoded) => ({ names: [(encoded as { readonly name: string }).name] }) },
  ...common
}) {}

const before = Before.toLayer(({ name }) => Effect.succeed(`before: ${name}`))
const after = After.toLayer(({ names }) => Effect.succeed(`after: ${names.join(" ")}`))

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })(
  "while a new version is rolled out",
  (it) => {
    it.effect("tasks of the new version wait for a worker that knows it, and those of the old one are run by both", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        yield* Effect.scoped(Effect.gen(function*() {
          yield* start(before)
          const newer = yield* After.send({ names: ["Ada", "L"] })
          const older = yield* Effect.forEach(["a", "b", "c"], (name) => Before.send({ name }))
          // Sent after the newer one, so it has been passed over.
          assert.deepStrictEqual(yield* Effect.forEach(older, (handle) => handle.await), [
            "before: a",
            "before: b",
            "before: c"
          ])
          assert.strictEqual((yield* record(newer.id)).state, "PENDING")

          yield* start(after)
          assert.strictEqual(yield* newer.await, "after: Ada L")
          const results = yield* Effect.forEach(
            Array.from({ length: 20 }, (_, i) => `${i}`),
            (name) => Effect.flatMap(Before.send({ name }), (handle) => handle.await)
          )
          for (const [i, result] of results.entries()) {
            assert.match(result, new RegExp(`^(before|after): ${i}$`))
          }
        }))
        // A worker of the old version that starts late does not make the new one forgotten.
        yield* start(before)
        assert.deepStrictEqual(yield* sql`select version from horsies_definitions where name = 'Greeting'`, [{
          version: 2
        }])
      }))

    it.effect("a worker goes on while newer code migrates the schema under it", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        const begun = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        yield* start(Held.toLayer(({ n }) =>
          n > 0
            ? Effect.succeed(n)
            : Deferred.succeed(begun, undefined).pipe(Effect.andThen(Deferred.await(go)), Effect.as(n))
        ))
        const running = yield* Held.send({ n: 0 })
        yield* Deferred.await(begun)
        assert.strictEqual(yield* Effect.flatMap(Held.send({ n: 1 }), (handle) => handle.await), 1)

        // What may come with a migration that only adds.
        yield* sql.withTransaction(Effect.gen(function*() {
          yield* sql`alter table horsies_tasks add column later integer, add column later_too text default 'x'`
          yield* sql`alter table horsies_history add column later integer`
          yield* sql`alter table horsies_heartbeats add column later integer`
          yield* sql`create index later on horsies_tasks (later)`
          yield* sql`create function horsies_later(n integer) returns integer language sql as 'select n'`
          yield* sql`insert into horsies_migrations (migration_id, name) values (${
            SchemaInitializer.version + 1
          }, 'later')`
        }))

        yield* Deferred.succeed(go, undefined)
        assert.strictEqual(yield* running.await, 0)
        const handles = yield* Effect.forEach([2, 3, 4], (n) => Held.send({ n }))
        assert.deepStrictEqual(
          yield* Effect.forEach(handles, (handle) => handle.await),
          [2, 3, 4]
        )

        // But the older code does not start again.
        const refused = yield* Effect.flip(
          Effect.scoped(Layer.build(Layer.fresh(Layer.provide(PostgresBroker.layer, TestBroker.config))))
        )
        assert.strictEqual(refused._tag === "BrokerError" ? refused.reason._tag : refused._tag, "SchemaMismatch")
        assert.include(refused.message, "deploy newer code")
      }))
  }
)
