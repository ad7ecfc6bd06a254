/** Short runs of the torture program: over the broker as it is, and over brokers that were broken on purpose. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import { rmSync } from "node:fs"
import type { Rule } from "../../src/verify/checker.ts"
import type { Fault, Planned } from "../../src/verify/plan.ts"
import * as Verify from "../../src/verify/verify.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import * as TestDatabase from "../support/TestDatabase.ts"

const quiet: Verify.Options = {
  seconds: 8,
  seed: 7,
  workers: 2,
  children: 0,
  rate: 40,
  onFault: () => Effect.void,
  onStep: () => Effect.void
}

/** These faults, and no others. */
const only = (...faults: ReadonlyArray<readonly [at: number, fault: Fault]>): ReadonlyArray<Planned> =>
  faults.map(([at, fault], i) => ({ at, fault, choice: i % 2 / 2 }))

/** What a run finds. Its files are of no use when it was meant to find something. */
const run = (options: Partial<Verify.Options>) =>
  Effect.tap(
    Verify.run({ ...quiet, ...options }),
    ({ folder }) =>
      Effect.sync(() => folder === undefined ? undefined : rmSync(folder, { recursive: true, force: true }))
  )

const rules = ({ report }: Verify.Result): ReadonlyArray<Rule> => [
  ...new Set(report.violations.map(({ rule }) => rule))
]

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
  it.live("finds nothing wrong with workers that are killed, frozen and cut off, and a server that crashes", () =>
    Effect.gen(function*() {
      const { evidence, folder, report } = yield* run({
        plan: only(
          [2500, { what: "kill", whom: "worker" }],
          [1500, { what: "cut", how: "half", whom: "producers" }],
          [4000, { what: "restart", how: "immediate", down: 0 }],
          [4500, { what: "kill", whom: "producer" }],
          [6000, { what: "freeze", whom: "group", millis: 4500 }],
          [6500, { what: "cut", how: "reset", whom: "producers" }],
          [7000, { what: "delay", late: 50, millis: 1000 }]
        ),
        workers: 3,
        long: 0.1
      })
      assert.deepStrictEqual(report.violations.filter(({ rule }) => rule !== "lateRecovery"), [])
      assert.isAtLeast(report.acknowledged, 100)
      assert.strictEqual(report.kills, 2)
      assert.strictEqual(report.freezes, 1)
      assert.strictEqual(report.restarts, 1)
      assert.isAtLeast(report.extraRuns, 1)
      assert.lengthOf(evidence.probes, 15)
      if (report.violations.length === 0) assert.isUndefined(folder)
    }))

  it.live("finds nothing wrong behind a transaction pooler whose backends are terminated", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase.make
      const pooler = yield* PgBouncer.make(url, { poolMode: "transaction" })
      const { report } = yield* run({
        databaseUrl: url,
        poolerUrl: pooler.url,
        plan: only(
          [2500, { what: "kill", whom: "worker" }],
          [3000, { what: "terminate", backends: 5 }],
          [4000, { what: "cut", how: "half", whom: "worker" }],
          [5000, { what: "cut", how: "reset", whom: "producers" }]
        )
      })
      assert.deepStrictEqual(report.violations.filter(({ rule }) => rule !== "lateRecovery"), [])
      assert.isAtLeast(report.acknowledged, 100)
      assert.strictEqual(report.kills, 1)
      assert.strictEqual(report.restarts, 0)
      assert.isAtLeast(report.cuts, 2)
    }).pipe(Effect.scoped))

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
          [10_000, { what: "freeze", whom: "group", millis: 4700 }]
        ),
        sabotage: (schema) =>
          replace(schema, "horsies_finish", "t.id = f.id and t.fence = f.fence and t.worker = p_worker", "t.id = f.id")
      })
      assert.include(rules(result), "staleFinish")
      assert.isAtLeast(result.report.staleFinishes, 1)
      assert.isDefined(result.folder)
    }).pipe(Effect.scoped))

  it.live("catches a broker whose wake-ups are lost", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase.make
      // What is looked up by its name alone is found in the schema of the sabotage first.
      const detour = new URL(Redacted.value(url))
      detour.searchParams.set("options", "-csearch_path=sabotage,public,pg_catalog")
      const result = yield* run({
        databaseUrl: Redacted.make(detour.href),
        seconds: 1,
        plan: [],
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
      assert.deepStrictEqual(rules(result), ["lateStart"])
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
