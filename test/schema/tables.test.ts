import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { readFileSync } from "node:fs"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as SchemaInitializer from "../../src/schema/SchemaInitializer.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

const page = readFileSync(new URL("../../docs/tables.md", import.meta.url), "utf8")

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("the schema", (it) => {
  it.effect("every table, index and function is on its page", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const names = yield* sql<{ readonly name: string }>`
        select relname::text as name from pg_class c join pg_namespace n on n.oid = relnamespace
        where nspname = 'public' and relkind in ('r', 'p', 'i', 'I') and not relispartition
          and relname not like 'horsies_migrations%'
        union
        select proname::text from pg_proc p join pg_namespace n on n.oid = pronamespace where nspname = 'public'`
      assert.isAbove(names.length, 10)
      assert.deepStrictEqual(names.map(({ name }) => name).filter((name) => !page.includes(`\`${name}`)), [])
    }))

  it.effect("a second initializer finds nothing to do, also many at once", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const before = yield* sql`select migration_id, created_at from horsies_migrations`
      yield* Effect.all(
        Array.from({ length: 5 }, () => SchemaInitializer.initialize({ schema: "public", migrate: true })),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(yield* sql`select migration_id, created_at from horsies_migrations`, before)
    }))

  it.effect("many processes that start on an empty database make one schema", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* Effect.all(
        Array.from({ length: 5 }, () => SchemaInitializer.initialize({ schema: "fresh", migrate: true })),
        { concurrency: "unbounded" }
      )
      const [row] = yield* sql`select count(*)::int as count from fresh.horsies_migrations`
      assert.strictEqual(row?.["count"], SchemaInitializer.version)
    }))

  it.effect("what is printed as SQL makes the same tables", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* SchemaInitializer.initialize({ schema: "made", migrate: true })
      // One statement after another: the driver takes one per call.
      for (const statement of SchemaInitializer.statements("printed")) yield* sql.unsafe(statement)
      const columns = (schema: string) =>
        sql`select table_name, column_name, data_type, column_default is not null as has_default
          from information_schema.columns
          where table_schema = ${schema} and table_name !~ '_[0-9]{8}$' and table_name <> 'horsies_migrations' order by 1, 2`
      assert.isAbove((yield* columns("made")).length, 40)
      assert.deepStrictEqual(yield* columns("printed"), yield* columns("made"))
    }))

  it.effect("a missing schema is refused when it may not be made, and so is a newer one", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const missing = yield* Effect.flip(SchemaInitializer.initialize({ schema: "nowhere", migrate: false }))
      assert.strictEqual(missing.reason._tag, "SchemaMismatch")
      assert.deepStrictEqual(yield* sql`select to_regnamespace('nowhere') is null as absent`, [{ absent: true }])

      yield* SchemaInitializer.initialize({ schema: "newer", migrate: true })
      yield* sql`insert into newer.horsies_migrations (migration_id, name) values (9999, 'from the future')`
      for (const migrate of [true, false]) {
        const newer = yield* Effect.flip(SchemaInitializer.initialize({ schema: "newer", migrate }))
        assert.strictEqual(newer.reason._tag === "SchemaMismatch" ? newer.reason.found : undefined, 9999)
        assert.include(newer.message, "deploy newer code")
      }
    }))

  it.effect("a finish that finds no partition goes to the overflow, and is found there", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const exit = yield* Effect.exit(sql.withTransaction(Effect.gen(function*() {
        yield* sql.unsafe(`do $$ declare t text; begin
          for t in select inhrelid::regclass::text from pg_inherits where inhparent = 'horsies_history'::regclass loop
            execute 'drop table ' || t;
          end loop; end $$`)
        yield* sql`insert into horsies_heartbeats values
          ('01890000-0000-7000-8000-000000000009', now(), now(), null, now(), interval '1 hour', 1, 'here', '{}', '{}', '{}')`
        yield* sql`insert into horsies_tasks (id, queue, name, due, priority, run_at, sent_at, payload, state, worker, fence)
          values ('01890000-0000-7000-8000-000000000001', 'q', 'n', true, 1, now(), now(), '{}', 'CLAIMED',
            '01890000-0000-7000-8000-000000000009', 1)`
        const finished = yield* sql`select horsies_finish('01890000-0000-7000-8000-000000000009',
          '{01890000-0000-7000-8000-000000000001}'::uuid[], '{1}'::int[], '{5}'::float8[], '{null}'::text[], '{null}'::text[])`
        assert.strictEqual(finished.length, 1)
        assert.deepStrictEqual(yield* sql`select state::text from horsies_history_overflow`, [{ state: "COMPLETED" }])
        return yield* Effect.fail("roll back" as const)
      })))
      assert.isTrue(
        Exit.isFailure(exit) && exit.cause.reasons.some((r) => r._tag === "Fail" && r.error === "roll back")
      )
    }))

  it.effect("a schema of another name is a broker of its own", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* TestDatabase
      yield* Effect.scoped(Layer.build(PostgresBroker.layerSqlClient({ schema: "elsewhere" })))
      assert.deepStrictEqual(yield* sql`select count(*)::int as count from elsewhere.horsies_tasks`, [{ count: 0 }])
      const refused = yield* Effect.flip(
        Effect.scoped(Layer.build(PostgresBroker.layerSqlClient({ schema: "No Name" })))
      )
      assert.strictEqual(refused._tag, "PostgresConfigError")
    }))
})
