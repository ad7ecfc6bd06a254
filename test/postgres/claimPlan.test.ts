/**
 * The hot functions ride their indexes, whatever the planner knows: over an empty table, a small one and a large one that
 * was never analyzed, with a plan that was made while the table was empty, with prepared statements and without.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Broker, type ClaimedTask } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import { completed, ended, ids, newTasks, retry, send, startWorker, uuid, want } from "../contract/Harness.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

const tables = ["horsies_tasks", "horsies_history", "horsies_heartbeats"] as const
const indexes = [
  "horsies_tasks_pkey",
  "horsies_tasks_ready",
  "horsies_tasks_suspect",
  "horsies_tasks_delayed",
  "horsies_tasks_claimed"
] as const

interface Reads {
  /** Sequential scans of the broker's tables. */
  readonly scans: number
  /** Entries read from each index, dead ones included. */
  readonly entries: Readonly<Record<typeof indexes[number], number>>
}

const sqlOf = PgClient.PgClient

/** What this transaction's connection has read so far. */
const reads = Effect.gen(function*() {
  const sql = yield* sqlOf
  const rows = yield* sql<{ readonly name: string; readonly scans: number; readonly entries: number }>`
    select relname::text as name, pg_stat_get_xact_numscans(oid)::float8 as scans,
      pg_stat_get_xact_tuples_returned(oid)::float8 as entries
    from pg_class where relname in ${sql.in([...tables, ...indexes])}`
  return new Map(rows.map((row) => [row.name, row]))
})

/** Runs an effect in a transaction, and tells what it has read. */
const reading = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const sql = yield* sqlOf
    return yield* sql.withTransaction(Effect.gen(function*() {
      const before = yield* reads
      const result = yield* effect
      const after = yield* reads
      const since = (name: string, field: "scans" | "entries") =>
        (after.get(name)?.[field] ?? 0) - (before.get(name)?.[field] ?? 0)
      const entries = Object.fromEntries(indexes.map((name) => [name, since(name, "entries")]))
      return {
        result,
        reads: {
          scans: tables.reduce((sum, name) => sum + since(name, "scans"), 0),
          entries: entries as Reads["entries"]
        } satisfies Reads
      }
    }))
  })
