/** Short runs of the torture program over brokers that were broken on purpose. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import * as TestDatabase from "../../support/TestDatabase.ts"
import { only, rules, run } from "./running.ts"

/** Replaces a part of a function of the broker's. It must be there. */
const replace = (schema: string, name: string, part: string, by: string) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient
    const [row] = yield* sql<{ readonly text: string }>`
      select pg_get_functiondef(p.oid) as text from pg_proc p
      where p.proname = ${name} and p.pronamespace = ${schema}::regnamespace`
    const text = row?.text ?? ""
    assert.isTrue(text.includes(part), `${name} has no ${part}`)
    yield* sql.unsafe(text.replaceAll(part, by))
  })

describe("a short run", { timeout: 240_000 }, () => {
  it.live("catches a broker that does not look at the fence of a finish", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase.make
      const result = yield* run({
        databaseUrl: url,
        seconds: 18,
        rate: 20,
        long: 0.6,
        plan: only(
          [3000, { what: "freeze", whom: "group", millis: 4500 }],
          // A busy machine is slower to take tasks away.
          [10_000, { what: "freeze", whom: "group", millis: 6000 }]
        ),
        sabotage: (schema) =>
          replace(schema, "horsies_finish", "t.id = f.id and t.fence = f.fence and t.worker = p_worker", "t.id = f.id")
      })
      assert.include(rules(result), "staleFinish")
      assert.isAtLeast(result.report.staleFinishes, 1)
      assert.isDefined(result.folder)
    }).pipe(Effect.scoped))

  it.live("catches a broker whose wake-ups are lost, and a fault that could not happen", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase.make
      // What is looked up by its name alone is found in the schema of the sabotage first.
      const detour = new URL(Redacted.value(url))
      detour.searchParams.set("options", "-csearch_path=sabotage,public,pg_catalog")
      const result = yield* run({
        databaseUrl: Redacted.make(detour.href),
        seconds: 1,
        plan: only([100, { what: "restart", how: "fast", down: 0 }]),
        sabotage: () =>
          Effect.gen(function*() {
            const sql = yield* SqlClient
            yield* sql`create schema sabotage`
            yield* sql.unsafe(`
              create function sabotage.pg_notify(text, text) returns void language plpgsql as $$
              begin
                if $2 not like '%"queues"%' then
                  perform pg_catalog.pg_notify($1, $2);
                end if;
              end $$`)
          })
      })
      assert.deepStrictEqual(rules(result), ["faultMissing", "lateStart"])
    }).pipe(Effect.scoped))

  it.live("catches a broker that does not log what is sent", () =>
    Effect.gen(function*() {
      const result = yield* run({
        long: 0.5,
        plan: only([4000, { what: "restart", how: "immediate", down: 0 }]),
        sabotage: (schema) =>
          Effect.flatMap(SqlClient, (sql) => sql.unsafe(`alter table ${schema}.horsies_tasks set unlogged`))
      })
      assert.include(rules(result), "lost")
      assert.isAtLeast(result.report.lost, 1)
    }))
})
