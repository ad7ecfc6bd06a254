/** Looking tasks up by id, live or ended. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { AttemptRecord, type BrokerError, type TaskRecord, type TaskState } from "../Broker.ts"
import { type Database, float, isUuid, type Row, uuid } from "./Database.ts"
import { earliestOf, outcomeOf } from "./waiting.ts"

const epochMillis = (column: string) => `(extract(epoch from ${column}) * 1000)::float8`

const shared = `id, name, queue, payload::text, state::text, priority, ${epochMillis("sent_at")}, ${
  epochMillis("run_at")
},
  fence, attempts, losses, worker, array_to_json(past)::text`

/** horsies_tasks_pkey, horsies_history_id */
const findStatement = (schema: string) => {
  const ended = `${shared}, ${epochMillis("started_at")}, ${epochMillis("ended_at")}, failure, result::text`
  return `
select ${shared}, null::float8, null::float8, null, null from ${schema}.horsies_tasks where id = $1
union all
select ${ended} from ${schema}.horsies_history where id = $1 and ended_at >= to_timestamp($2 / 1000)
union all
select ${ended} from ${schema}.horsies_history_overflow where id = $1
limit 1`
}

const decodePast = Schema.decodeUnknownSync(Schema.fromJsonString(Schema.Array(AttemptRecord)))

const taskRecord = (row: Row): TaskRecord => {
  const state = row[4] as TaskState
  const attempts = row[9] as number
  const worker = row[11] as string | null
  const endedAt = row[14] as number | null
  const outcome = endedAt === null ? undefined : outcomeOf(row[15], row[16])
  const past = row[12] === null ? [] : decodePast(row[12])
  const last: ReadonlyArray<AttemptRecord> = endedAt === null || outcome === undefined ? [] : [{
    // A loss is not counted as an attempt.
    attempt: outcome._tag === "Failed" && outcome.failure.kind === "Lost" ? attempts + 1 : attempts,
    outcome: outcome._tag === "Completed" ? "Completed" : outcome.failure.kind,
    worker,
    startedAt: row[13] as number | null,
    endedAt,
    ...(outcome._tag === "Completed" ? {} : { error: JSON.parse(outcome.failure.value) as Schema.Json })
  }]
  return {
    id: row[0] as string,
    name: row[1] as string,
    queue: row[2] as string,
    payload: row[3] as string,
    state,
    priority: row[5] as number,
    sentAt: row[6] as number,
    dueAt: row[7] as number,
    endedAt: endedAt ?? undefined,
    fence: row[8] as number,
    attempts,
    losses: row[10] as number,
    worker: worker ?? undefined,
    outcome,
    history: [...past, ...last]
  }
}

export const make = (database: Database) => {
  const statement = findStatement(database.schema)
  return (given: string): Effect.Effect<Option.Option<TaskRecord>, BrokerError> => {
    const id = given.toLowerCase()
    return !isUuid(id) ? Effect.succeedNone : Effect.map(
      database.run(statement, [uuid(id), float(earliestOf([id]))]),
      ([row]) => row === undefined ? Option.none() : Option.some(taskRecord(row))
    )
  }
}
