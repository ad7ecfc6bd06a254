/** Looking tasks up, live or ended. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import {
  AttemptRecord,
  BrokerError,
  EndState,
  type Filter,
  type Outcome,
  type Page,
  Refused,
  type Tags,
  type TaskRecord,
  TaskState
} from "../Broker.ts"
import { unreadable } from "./claiming.ts"
import { type Database, float, integer, isUuid, type Row, text, uuid, uuids } from "./Database.ts"
import { earliestOf, outcomeOf } from "./waiting.ts"

const epochMillis = (column: string) => `(extract(epoch from ${column}) * 1000)::float8`

/** None for one that no client could read, as for claims. */
const payload =
  "case when pg_column_size(payload) <= 60000 or octet_length(payload::text) <= 8000000 then payload::text end"

const shared = [
  "id",
  "name",
  "queue",
  payload,
  "state::text",
  "priority",
  epochMillis("sent_at"),
  epochMillis("run_at"),
  "fence",
  "attempts",
  "losses",
  "worker",
  "array_to_json(past)::text",
  "version",
  epochMillis("good_until"),
  "timeout",
  "concurrency_key::text",
  "tags::text",
  "origin"
].join(", ")

const live = `${shared}, cancelling, null::uuid, null::float8, null::float8, null, null`
const ended = `${shared}, false, successor, ${epochMillis("started_at")}, ${
  epochMillis("ended_at")
}, failure, result::text`

/** horsies_tasks_pkey, horsies_history_id */
const findStatement = (schema: string) => `
select ${live} from ${schema}.horsies_tasks where id = $1
union all
select ${ended} from ${schema}.horsies_history where id = $1 and ended_at >= to_timestamp($2 / 1000)
union all
select ${ended} from ${schema}.horsies_history_overflow where id = $1
limit 1`

/** A filter, as the first arguments of a statement. */
export const filterArguments = "$1::uuid[], $2::text, $3::text, $4::text, $5::text, $6::jsonb"

/** The filter is made by the server, of what is given, so that each look can use the index for it. */
const filterStatement = (schema: string) => `
select ${schema}.horsies_filter(${filterArguments})`

/** The first of each table, the last sent first, and of these the first. */
const listStatement = (schema: string, filter: string, states: ReadonlyArray<TaskState>) => {
  const among = (some: ReadonlyArray<TaskState>) => some.map((state) => `'${state}'`).join(", ")
  const live_ = states.filter((state) => !isEndState(state))
  const ended_ = states.filter(isEndState)
  const from = (columns: string, table: string, some: ReadonlyArray<TaskState>) =>
    `(select ${columns} from ${schema}.${table} t
  where t.state in (${among(some)}) and t.id < $1 and ${filter} order by t.id desc limit $2)`
  const tables = [
    ...(live_.length === 0 ? [] : [from(live, "horsies_tasks", live_)]),
    ...(ended_.length === 0 ? [] : [
      from(ended, "horsies_history", ended_),
      from(ended, "horsies_history_overflow", ended_)
    ])
  ].join("\nunion all\n")
  return `select * from (${tables}) found order by 1 desc limit $2`
}

const isEndState = (state: TaskState) => EndState.literals.some((end) => end === state)

/** Above every id. */
const highest = "ffffffff-ffff-ffff-ffff-ffffffffffff"

const decodePast = Schema.decodeUnknownSync(Schema.fromJsonString(Schema.Array(AttemptRecord)))

/** The attempt that ended the task, if one did. */
const lastAttempt = (row: Row, outcome: Outcome, endedAt: number): ReadonlyArray<AttemptRecord> => {
  const startedAt = row[21] as number | null
  const lost = outcome._tag === "Failed" && outcome.failure.kind === "Lost"
  // It was cancelled, or it was too late, before it started.
  if (startedAt === null && !lost) return []
  return [{
    // A loss is not counted as an attempt.
    attempt: row[9] as number + (lost ? 1 : 0),
    outcome: outcome._tag === "Failed"
      ? outcome.failure.kind
      : outcome._tag === "Completed"
      ? "Completed"
      : "Cancelled",
    worker: row[11] as string | null,
    startedAt,
    endedAt,
    ...(outcome._tag === "Failed" ? { error: JSON.parse(outcome.failure.value) as Schema.Json } : {})
  }]
}

const taskRecord = (row: Row): TaskRecord => {
  const endedAt = row[22] as number | null
  const outcome = endedAt === null ? undefined : outcomeOf(row[23], row[24])
  const past = row[12] === null ? [] : decodePast(row[12])
  const last = endedAt === null || outcome === undefined ? [] : lastAttempt(row, outcome, endedAt)
  const orNone = <A>(value: unknown) => (value ?? undefined) as A | undefined
  return {
    id: row[0] as string,
    name: row[1] as string,
    queue: row[2] as string,
    payload: (row[3] ?? unreadable) as string,
    state: row[4] as TaskState,
    priority: row[5] as number,
    sentAt: row[6] as number,
    dueAt: row[7] as number,
    endedAt: endedAt ?? undefined,
    fence: row[8] as number,
    attempts: row[9] as number,
    losses: row[10] as number,
    worker: orNone(row[11]),
    version: row[13] as number,
    goodUntil: orNone(row[14]),
    timeout: orNone(row[15]),
    concurrencyKey: (row[16] || undefined) as string | undefined,
    tags: row[17] === null ? {} : JSON.parse(row[17] as string) as Tags,
    origin: orNone(row[18]),
    cancelling: row[19] as boolean,
    successor: orNone(row[20]),
    outcome,
    history: [...past, ...last]
  }
}

/** A filter as the server's functions take it. Keys belong to names, so one without a name means nothing. */
export const filterParameters = (filter: Filter): Effect.Effect<ReadonlyArray<unknown>, BrokerError> =>
  filter.idempotencyKey !== undefined && filter.name === undefined
    ? Effect.fail(nameMissing)
    : Effect.succeed([
      filter.ids === undefined ? null : uuids(filter.ids.map((id) => id.toLowerCase()).filter(isUuid)),
      optionalText(filter.name),
      optionalText(filter.queue),
      optionalText(filter.concurrencyKey),
      optionalText(filter.idempotencyKey),
      optionalText(filter.tags === undefined ? undefined : JSON.stringify(filter.tags))
    ])

const nameMissing = new BrokerError({
  reason: new Refused({ message: "a filter by idempotencyKey needs the name of the task too" })
})

const optionalText = (value: string | undefined) => value === undefined ? null : text(value)

export const make = (database: Database) => {
  const find = findStatement(database.schema)
  const filterSql = filterStatement(database.schema)
  return {
    find: (given: string): Effect.Effect<Option.Option<TaskRecord>, BrokerError> => {
      const id = given.toLowerCase()
      return !isUuid(id) ? Effect.succeedNone : Effect.map(
        database.run(find, [uuid(id), float(earliestOf([id]))]),
        ([row]) => row === undefined ? Option.none() : Option.some(taskRecord(row))
      )
    },
    list: Effect.fnUntraced(function*(filter: Filter, page: Page) {
      const before = page.before?.toLowerCase() ?? highest
      const states = page.states ?? TaskState.literals
      if (!isUuid(before) || states.length === 0) return []
      const [row] = yield* database.run(filterSql, yield* filterParameters(filter))
      const statement = listStatement(database.schema, row![0] as string, states)
      return (yield* database.run(statement, [uuid(before), integer(page.limit ?? 100)])).map(taskRecord)
    })
  }
}
