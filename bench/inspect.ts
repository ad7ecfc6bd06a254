/** The files of `--profile`. */
import * as Effect from "effect/Effect"
import { mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import type { Inspect } from "./round.ts"

/** Statements of functions count twice: for themselves and in the call of the function. */
const statements = `
select json_build_object('calls', calls, 'ms', round(total_exec_time::numeric, 1), 'rows', rows, 'wal', wal_bytes,
  'toplevel', toplevel, 'query', query)::text
from pg_stat_statements s join pg_database d on d.oid = s.dbid
where d.datname = current_database()
order by total_exec_time desc limit 40`

/** Writes `<contestant>.cpuprofile` and `<contestant>.statements.jsonl`. */
export const inspectInto = (folder: string): Inspect => ({ contestant, profile, sql }) =>
  Effect.gen(function*() {
    yield* sql`create extension if not exists pg_stat_statements`
    const rows = yield* sql.unsafe(statements).values
    yield* Effect.tryPromise(async () => {
      await mkdir(folder, { recursive: true })
      await writeFile(join(folder, `${contestant}.statements.jsonl`), rows.map(([row]) => `${row}\n`).join(""))
      if (profile !== undefined) await writeFile(join(folder, `${contestant}.cpuprofile`), profile)
    })
  })
