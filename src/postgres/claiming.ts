/** Claiming tasks, and recording ended attempts, alone or both in one statement. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { Broker, BrokerError, ClaimedTask, EndedAttempt, Want } from "../Broker.ts"
import { type Database, floats, integers, type Row, texts, uuid, uuids } from "./Database.ts"
import { LowWater } from "./lowWater.ts"

const claimed = "id, fence, name, queue, payload, priority, attempt, losses, due_at, waited"

const claimStatement = (schema: string) => `
select ${claimed}
from ${schema}.horsies_claim($1, $2, $3, $4, $5, $6, $7, $8, $9)`

const finishStatement = (schema: string) => `
select id from ${schema}.horsies_finish($1, $2, $3, $4, $5, $6) as id
union all
select id from ${schema}.horsies_retry($1, $7, $8, $9, $10, $11, $12) as id`

/** The functions run in the order of the statement; each sees what the ones before it did. */
const finishAndClaimStatement = (schema: string) => `
select id, null::int as fence, null as name, null as queue, null as payload, null::smallint as priority,
  null::int as attempt, null::smallint as losses, null::float8 as due_at, null::float8 as waited
from (${finishStatement(schema)}) finished
union all
select ${claimed}
from ${schema}.horsies_claim($1, $13, $14, $15, $16, $17, $18, $19, $20)`

interface Claimed extends ClaimedTask {
  readonly dueAt: number
}

const claimedTask = (row: Row): Claimed => ({
  id: row[0] as string,
  fence: row[1] as number,
  name: row[2] as string,
  queue: row[3] as string,
  payload: row[4] as string,
  priority: row[5] as number,
  attempt: row[6] as number,
  losses: row[7] as number,
  dueAt: row[8] as number,
  waited: row[9] as number
})

/** Rows come back in no order. */
const byUrgency = (a: Claimed, b: Claimed) =>
  a.priority - b.priority || a.dueAt - b.dueAt || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)

const attemptParameters = (attempts: ReadonlyArray<EndedAttempt>) => {
  const ended: Array<EndedAttempt> = []
  const retried: Array<EndedAttempt> = []
  for (const attempt of attempts) (attempt.end._tag === "Retry" ? retried : ended).push(attempt)
  const failureOf = ({ end }: EndedAttempt) => end._tag === "Completed" ? null : end.failure.kind
  const valueOf = ({ end }: EndedAttempt) => end._tag === "Completed" ? end.value : end.failure.value
  const common = (some: ReadonlyArray<EndedAttempt>) => [
    uuids(some.map((attempt) => attempt.id)),
    integers(some.map((attempt) => attempt.fence)),
    floats(some.map((attempt) => attempt.elapsed)),
    texts(some.map(failureOf)),
    texts(some.map(valueOf))
  ]
  return [
    ...common(ended),
    ...common(retried),
    floats(retried.map(({ end }) => end._tag === "Retry" ? end.delay : null))
  ]
}

export const make = (database: Database) => {
  const claimSql = claimStatement(database.schema)
  const finishSql = finishStatement(database.schema)
  const finishAndClaimSql = finishAndClaimStatement(database.schema)
  const lowWater = new LowWater()

  /** Claims with \`execute\`, and once more without marks when the marks may have hidden something. */
  const claimWith = Effect.fnUntraced(function*(
    worker: string,
    wants: ReadonlyArray<Want>,
    execute: (parameters: ReadonlyArray<unknown>) => Effect.Effect<ReadonlyArray<Row>, BrokerError>
  ) {
    const now = (yield* Clock.Clock).currentTimeMillisUnsafe()
    const { lanes, marked } = lowWater.lanes(wants, now)
    const rows = yield* execute([
      texts(wants.map((want) => want.queue)),
      integers(wants.map((want) => want.slots)),
      integers(wants.map((want) => want.ahead)),
      integers(lanes.map((lane) => lane.want + 1)),
      texts(lanes.map((lane) => lane.name)),
      integers(lanes.map((lane) => lane.fromPriority)),
      floats(lanes.map((lane) => lane.fromDueAt)),
      integers(lanes.map((lane) => lane.toPriority))
    ])
    const tasks = rows.filter((row) => row[1] !== null).map(claimedTask).sort(byUrgency)
    lowWater.learn(wants, tasks, now)
    if (tasks.length > 0 || !marked) return { tasks, rows }
    lowWater.forget()
    const again = yield* claim(worker, wants)
    return { tasks: again, rows }
  })

  const claim = (
    worker: string,
    wants: ReadonlyArray<Want>
  ): Effect.Effect<ReadonlyArray<ClaimedTask>, BrokerError> =>
    Effect.map(
      claimWith(worker, wants, (parameters) => database.run(claimSql, [uuid(worker), ...parameters])),
      ({ tasks }) => tasks
    )

  const finish: Broker["Service"]["finish"] = Effect.fnUntraced(function*(worker, attempts, wants) {
    const finishing = [uuid(worker), ...attemptParameters(attempts)]
    const idsOf = (rows: ReadonlyArray<Row>) =>
      new Set(rows.filter((row) => row.length === 1 || row[1] === null).map((row) => row[0] as string))
    if (wants.length === 0) {
      return { accepted: idsOf(yield* database.run(finishSql, finishing)), claimed: [] }
    }
    const { rows, tasks } = yield* claimWith(
      worker,
      wants,
      (parameters) => database.run(finishAndClaimSql, [...finishing, ...parameters])
    )
    return { accepted: idsOf(rows), claimed: tasks }
  })

  return { claim, finish, lowWater }
}
