/** Gathers what a run has left behind: in the files of its processes, and in the tables. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import type { Evidence, Outcome, Run, Send } from "./evidence.ts"
import * as Journal from "./journal.ts"
import { effectsTable } from "./tasks.ts"

type Mutable<A> = { -readonly [K in keyof A]: A[K] }

/** Rows per statement. Rows of one id are never torn apart: two of them would be a find. */
const page = 20_000

const outcomesStatement = (schema: string) => `
select id, state, fence, attempts, failure, result, past, started_at, ended_at
from (
  select h.id, h.state::text as state, h.fence, h.attempts, h.failure, h.result::text as result,
    array_to_json(h.past)::text as past, (extract(epoch from h.started_at) * 1000)::float8 as started_at,
    (extract(epoch from h.ended_at) * 1000)::float8 as ended_at
  from ${schema}.horsies_history h
  union all
  select h.id, h.state::text, h.fence, h.attempts, h.failure, h.result::text,
    array_to_json(h.past)::text, (extract(epoch from h.started_at) * 1000)::float8,
    (extract(epoch from h.ended_at) * 1000)::float8
  from ${schema}.horsies_history_overflow h
) ended
where id > $1
order by id
fetch first ${page} rows with ties`

interface Row {
  readonly id: string
  readonly state: string
  readonly fence: number
  readonly attempts: number
  readonly failure: string | null
  readonly result: string | null
  readonly past: string | null
  readonly started_at: number | null
  readonly ended_at: number
}

/** Which run it was, when the result is one of ours. */
const byOf = (result: string | null): Outcome["by"] => {
  const value: unknown = result === null ? undefined : JSON.parse(result)
  return typeof value === "object" && value !== null && "fence" in value && "pid" in value
    ? { fence: Number(value.fence), pid: Number(value.pid) }
    : undefined
}

const pastOf = (past: string | null) => past === null ? [] : JSON.parse(past) as Outcome["past"]

/** Milliseconds by which the server's clock is ahead of that of this machine. */
const clockAhead = Effect.fnUntraced(function*(sql: SqlClient) {
  const before = yield* Clock.currentTimeMillis
  const [row] = yield* sql.unsafe<{ readonly at: number }>(
    "select (extract(epoch from clock_timestamp()) * 1000)::float8 as at"
  )
  const after = yield* Clock.currentTimeMillis
  return row === undefined ? 0 : row.at - (before + after) / 2
})

/** Times are by the clock of this machine. */
const outcomes = Effect.fnUntraced(function*(sql: SqlClient, schema: string) {
  const ahead = yield* clockAhead(sql)
  const own = <A extends number | null>(at: A) => at === null ? at : Math.round(at - ahead)
  const found: Array<Outcome> = []
  let after = "00000000-0000-0000-0000-000000000000"
  while (true) {
    const rows: ReadonlyArray<Row> = yield* sql.unsafe<Row>(outcomesStatement(schema), [after])
    for (const row of rows) {
      found.push({
        task: row.id,
        state: row.state,
        fence: row.fence,
        attempts: row.attempts,
        failure: row.failure ?? undefined,
        by: byOf(row.result),
        past: pastOf(row.past).map((past) =>
          Object.assign(past, { startedAt: own(past.startedAt), endedAt: own(past.endedAt) })
        ),
        startedAt: own(row.started_at),
        endedAt: own(row.ended_at)
      })
    }
    const last = rows.at(-1)
    if (last === undefined || rows.length < page) return found
    after = last.id
  }
})

/** Whether a task has not ended yet. */
export const isBusy = (sql: SqlClient, schema: string): Effect.Effect<boolean, SqlError> =>
  Effect.map(
    sql.unsafe<{ readonly busy: boolean }>(`select exists (select from ${schema}.horsies_tasks) as busy`),
    ([row]) => row?.busy !== false
  )

/** How many tasks have not ended, counted up to `most`. */
export const backlog = (sql: SqlClient, schema: string, most: number): Effect.Effect<number, SqlError> =>
  Effect.map(
    sql.unsafe<{ readonly count: number }>(
      `select count(*)::int as count from (select from ${schema}.horsies_tasks limit ${most}) live`
    ),
    ([row]) => row?.count ?? 0
  )

/** What the tables say. */
export const fromTables = Effect.fnUntraced(function*(sql: SqlClient, schema: string) {
  const live = yield* sql.unsafe<Evidence["live"][number]>(
    `select id as task, state::text as state, fence from ${schema}.horsies_tasks`
  )
  const effects = yield* sql.unsafe<Evidence["effects"][number]>(
    `select task, fence from ${effectsTable(schema)}`
  )
  return { outcomes: yield* outcomes(sql, schema), live, effects }
})

/** What the producers in these folders have written down. */
export const fromProducers = (folders: ReadonlyArray<string>) => {
  const sends = new Map<string, Mutable<Send>>()
  const cancelled: Array<string> = []
  for (const folder of folders) {
    const file = join(folder, "sends.jsonl")
    for (const line of existsSync(file) ? Journal.linesOf<Journal.SendsLine>(file) : []) {
      if (line.what === "send") {
        const { what: _, ...send } = line
        sends.set(line.id, { ...send, acknowledgedAt: undefined, stored: undefined, refused: undefined })
        continue
      }
      const send = sends.get(line.id)
      if (line.what === "cancelled") cancelled.push(line.id)
      else if (send !== undefined && line.what === "refused") send.refused = line.error
      else if (send !== undefined && line.what === "sent") {
        send.acknowledgedAt = line.at
        send.stored = line.stored
      }
    }
  }
  return { sends: [...sends.values()], cancelled }
}

/** What the processes that run handlers have written down in these folders. */
export const fromWorkers = (folders: ReadonlyArray<string>): ReadonlyArray<Run> => {
  const runs: Array<Run> = []
  for (const folder of folders) {
    for (const name of readdirSync(folder).filter((name) => name.startsWith("runs-"))) {
      let self: Journal.ProcessLine | undefined
      const open = new Map<string, Mutable<Run>>()
      for (const line of Journal.linesOf<Journal.RunLine>(join(folder, name))) {
        if (line.what === "process") self = line
        else if (line.what === "begin" && self !== undefined) {
          const { at, fence, task } = line
          const run = { task, fence, at, pid: self.pid, parent: self.parent, worker: self.worker, end: undefined }
          runs.push(run)
          open.set(`${task} ${fence}`, run)
        } else if (line.what === "end") {
          const run = open.get(`${line.task} ${line.fence}`)
          if (run !== undefined) run.end = { at: line.at, how: line.how }
          open.delete(`${line.task} ${line.fence}`)
        }
      }
    }
  }
  return runs
}
