/** Claiming tasks, and recording ended attempts, alone or both in one statement. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { BrokerError, ClaimedTask, EndedAttempt, Want } from "../Broker.ts"
import { type Database, floats, integers, type Row, texts, uuid, uuids } from "./Database.ts"
import { LowWater } from "./lowWater.ts"
import type { Announcement } from "./wakeUps.ts"

const claimed = "id, queue, priority, fence, name, payload, attempt, losses, due_at, waited"

const claimStatement = (schema: string) => `
select ${claimed}
from ${schema}.horsies_claim($1, $2, $3, $4, $5, $6, $7, $8, $9)`

/** What was recorded; of retried tasks also where they wait again. */
const finishStatement = (schema: string) => `
select id, null::text as queue, null::smallint as priority
from ${schema}.horsies_finish($1, $2, $3, $4, $5, $6) as id
union all
select id, queue, priority
from ${schema}.horsies_retry($1, $7, $8, $9, $10, $11, $12)`

/** The functions run in the order of the statement; each sees what the ones before it did. */
const finishAndClaimStatement = (schema: string) => `
select id, queue, priority, null::int as fence, null as name, null as payload,
  null::int as attempt, null::smallint as losses, null::float8 as due_at, null::float8 as waited
from (${finishStatement(schema)}) recorded
union all
select ${claimed}
from ${schema}.horsies_claim($1, $13, $14, $15, $16, $17, $18, $19, $20)`

interface Claimed extends ClaimedTask {
  readonly dueAt: number
}

const claimedTask = (row: Row): Claimed => ({
  id: row[0] as string,
  queue: row[1] as string,
  priority: row[2] as number,
  fence: row[3] as number,
  name: row[4] as string,
  payload: row[5] as string,
  attempt: row[6] as number,
  losses: row[7] as number,
  dueAt: row[8] as number,
  waited: row[9] as number
})

/** Rows of a claim have a fence, rows of what was recorded have none. */
const isClaimed = (row: Row) => row[3] !== null

/** Rows come back in no order. Tasks that were lost before go first: they were claimed for slots and are to start at once. */
const byUrgency = (a: Claimed, b: Claimed) =>
  Number(b.losses > 0) - Number(a.losses > 0) || a.priority - b.priority || a.dueAt - b.dueAt ||
  (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)

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

  /** Claims with `execute`, and once more without marks where the marks may have hidden something. */
  const claimWith = Effect.fnUntraced(function*(
    worker: string,
    wants: ReadonlyArray<Want>,
    execute: (parameters: ReadonlyArray<unknown>) => Effect.Effect<ReadonlyArray<Row>, BrokerError>
  ) {
    const now = (yield* Clock.Clock).currentTimeMillisUnsafe()
    const { forgotten, lanes, marked } = lowWater.lanes(wants, now)
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
    const tasks = rows.filter(isClaimed).map(claimedTask).sort(byUrgency)
    lowWater.learn(wants, tasks, now, forgotten)
    if (!marked) return { tasks, rows }
    const counts = new Map<string, number>()
    for (const task of tasks) counts.set(task.queue, (counts.get(task.queue) ?? 0) + 1)
    const rest = wants.flatMap((want) => {
      const count = counts.get(want.queue) ?? 0
      if (count >= want.slots + want.ahead) return []
      lowWater.forget(want.queue)
      const slots = Math.max(0, want.slots - count)
      return [{ ...want, slots, ahead: want.slots + want.ahead - count - slots }]
    })
    if (rest.length === 0) return { tasks, rows }
    return { tasks: [...tasks, ...(yield* claim(worker, rest))], rows }
  })

  const claim = (
    worker: string,
    wants: ReadonlyArray<Want>
  ): Effect.Effect<ReadonlyArray<ClaimedTask>, BrokerError> =>
    Effect.map(
      claimWith(worker, wants, (parameters) => database.run(claimSql, [uuid(worker), ...parameters])),
      ({ tasks }) => tasks
    )

  /** Records attempts and claims. Succeeds also with where retried tasks wait again, and for how long. */
  const finish = Effect.fnUntraced(function*(
    worker: string,
    attempts: ReadonlyArray<EndedAttempt>,
    wants: ReadonlyArray<Want>
  ) {
    const finishing = [uuid(worker), ...attemptParameters(attempts)]
    const { rows, tasks } = wants.length === 0
      ? { rows: yield* database.run(finishSql, finishing), tasks: [] }
      : yield* claimWith(worker, wants, (parameters) => database.run(finishAndClaimSql, [...finishing, ...parameters]))
    const recorded = wants.length === 0 ? rows : rows.filter((row) => !isClaimed(row))
    const again = new Map<string, Announcement>()
    for (const [id, queue, priority] of recorded) {
      if (queue !== null) again.set(id as string, { queue: queue as string, priority: priority as number, dueIn: 0 })
    }
    return {
      accepted: new Set(recorded.map((row) => row[0] as string)),
      claimed: tasks as ReadonlyArray<ClaimedTask>,
      again: attempts.flatMap(({ end, id }) => {
        const announcement = again.get(id)
        return announcement === undefined || end._tag !== "Retry" ? [] : [{ ...announcement, dueIn: end.delay }]
      })
    }
  })

  return { claim, finish, lowWater }
}
