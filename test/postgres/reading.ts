/** Measures what statements read, from the server's own counters. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Effect from "effect/Effect"

/** What was read from one table or index. */
interface Read {
  readonly scans: number
  /** Rows of a sequential scan, entries of an index scan; dead entries included. */
  readonly entries: number
}

/**
 * Everything of the broker that the calling connection has read. The counters also hold what earlier transactions have
 * read and not reported yet, so only differences mean something.
 */
const counters = Effect.gen(function*() {
  const sql = yield* PgClient.PgClient
  const rows = yield* sql<Read & { readonly name: string; readonly kind: "table" | "index" }>`
    select relname::text as name, case relkind when 'r' then 'table' else 'index' end as kind,
      pg_stat_get_xact_numscans(oid)::float8 as scans, pg_stat_get_xact_tuples_returned(oid)::float8 as entries
    from pg_class
    where relname like 'horsies\\_%' and relkind in ('r', 'i')`
  return new Map(rows.map((row) => [row.name, row]))
})

/** Runs an effect in a transaction and tells what it has read there. */
export const reading = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  PgClient.PgClient.use((sql) =>
    sql.withTransaction(Effect.gen(function*() {
      const before = yield* counters
      const result = yield* effect
      const after = yield* counters
      /** Entries read from each index that was used. */
      const entries: Record<string, number> = {}
      /** Tables that were read from end to end. */
      const scanned: Array<string> = []
      for (const [name, { kind, ...now }] of after) {
        const then = before.get(name) ?? { entries: 0, scans: 0 }
        if (now.scans === then.scans) continue
        if (kind === "table") scanned.push(name)
        else entries[name] = now.entries - then.entries
      }
      return { result, entries, scanned }
    }))
  )
