/** Recording ended attempts, alone or together with a claim. */
import * as Effect from "effect/Effect"
import type { AttemptEnd, BrokerError, Claims, EndedAttempt, Want } from "../Broker.ts"
import { type Claiming, columns as claimed, isClaimed } from "./claiming.ts"
import { booleans, type Database, floats, integers, type Row, texts, uuid, uuids } from "./Database.ts"
import type { Announcement } from "./wakeUps.ts"

/** What was recorded; of tasks that wait again also where, and of those that have ended instead how. */
const finishStatement = (schema: string) => `
select id, null::text as queue, null::smallint as priority, null::text as instead
from ${schema}.horsies_finish($1, $2, $3, $4, $5, $6) as id
union all
select id, queue, priority, case when cancelled then 'Cancelled' when failed then 'Failed' end
from ${schema}.horsies_retry($1, $7, $8, $9, $10, $11, $12, $13)`

/** The functions run in the order of the statement; each sees what the ones before it did. */
const fusedStatement = (schema: string, claim: string) => `
select id, queue, priority, null::int as fence, null as name, null as payload,
  null::int as attempt, null::smallint as losses, null::float8 as due_at, null::float8 as waited,
  null::smallint as version, null as concurrency_key, null::float8 as timeout, null::float8 as expires_in, instead
from (${finishStatement(schema)}) recorded
union all
select ${claimed}, null
from ${schema}.${claim}`

/** As a row of the history says why there is no success. */
const failureOf = (end: AttemptEnd) =>
  end._tag === "Failed" ? end.failure.kind : end._tag === "Cancelled" || end._tag === "Expired" ? end._tag : null

const valueOf = (end: AttemptEnd) =>
  end._tag === "Completed" ? end.value : end._tag === "Failed" ? end.failure.value : null

const waitsAgain = (end: AttemptEnd) =>
  end._tag === "Retry" || end._tag === "Snoozed" || end._tag === "Interrupted" || end._tag === "Lost"

/** As an attempt is recorded that did not end its task. A snooze leaves no trace, nor does what never started. */
const outcomeOf = ({ elapsed, end }: EndedAttempt) =>
  end._tag === "Lost" ? "Lost" : elapsed === undefined ? null : end._tag === "Retry"
    ? end.failure.kind
    : end._tag === "Interrupted"
    ? end.why
    : null

const errorOf = ({ elapsed, end }: EndedAttempt) =>
  end._tag === "Retry" && elapsed !== undefined ? end.failure.value : null

const delayOf = (end: AttemptEnd) => end._tag === "Retry" || end._tag === "Snoozed" ? end.delay : null

/** A task that keeps its due time lies before what was claimed since: claims must not begin behind it. */
const keepsItsPlace = (end: AttemptEnd) => end._tag === "Interrupted" || end._tag === "Lost"

/** In milliseconds, of a task whose due time only the server knows. */
const longAgo = -86_400_000

const parametersOf = (worker: string, attempts: ReadonlyArray<EndedAttempt>) => {
  const ended: Array<EndedAttempt> = []
  const again: Array<EndedAttempt> = []
  // In the order in which a cancellation locks them: neither is to wait for the other in a circle.
  const sorted = attempts.toSorted((a, b) => a.id < b.id ? -1 : 1)
  for (const attempt of sorted) (waitsAgain(attempt.end) ? again : ended).push(attempt)
  const holds = (some: ReadonlyArray<EndedAttempt>) => [
    uuids(some.map(({ id }) => id)),
    integers(some.map(({ fence }) => fence)),
    floats(some.map(({ elapsed }) => elapsed ?? null))
  ]
  return [
    uuid(worker),
    ...holds(ended),
    texts(ended.map(({ end }) => failureOf(end))),
    texts(ended.map(({ end }) => valueOf(end))),
    ...holds(again),
    texts(again.map(outcomeOf)),
    texts(again.map(errorOf)),
    floats(again.map(({ end }) => delayOf(end))),
    booleans(again.map(({ elapsed, end }) => end._tag === "Retry" && elapsed !== undefined))
  ]
}

/** What became of ended attempts. */
export interface Recorded {
  readonly accepted: ReadonlySet<string>
  /** Where tasks wait again, and for how long. */
  readonly waiting: ReadonlyArray<Announcement>
  /** Tasks that would have waited again, but were to be cancelled, or have lost too many workers. */
  readonly cancelled: ReadonlyArray<string>
  readonly lost: ReadonlyArray<string>
}

/** That, and what was claimed with it. */
export interface Finished extends Recorded {
  readonly claimed: Claims
}

const nobody = () => {}

const recordedIn = (rows: ReadonlyArray<Row>, attempts: ReadonlyArray<EndedAttempt>): Recorded => {
  const accepted = new Set<string>()
  const places = new Map<string, Row>()
  const cancelled: Array<string> = []
  const lost: Array<string> = []
  for (const row of rows) {
    const id = row[0] as string
    accepted.add(id)
    const instead = row.at(-1)
    if (instead === "Cancelled") cancelled.push(id)
    else if (instead === "Failed") lost.push(id)
    else if (row[1] !== null) places.set(id, row)
  }
  const waiting: Array<Announcement> = []
  if (places.size > 0) {
    for (const { end, id } of attempts) {
      const row = places.get(id)
      if (row !== undefined) {
        waiting.push({ queue: row[1] as string, priority: row[2] as number, dueIn: delayOf(end) ?? longAgo })
      }
    }
  }
  return { accepted, waiting, cancelled, lost }
}

export const make = (database: Database, claiming: Claiming) => {
  const finishSql = finishStatement(database.schema)
  const withOpenSql = fusedStatement(
    database.schema,
    "horsies_claim($1, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)"
  )
  const withLimitedSql = fusedStatement(
    database.schema,
    "horsies_claim_limited($1, $14, $15, $16, $17, $18, $19, $20, $21, $22, true)"
  )

  /** `tell` is told as soon as they are recorded, whatever else there is to claim. */
  return Effect.fnUntraced(function*(
    worker: string,
    attempts: ReadonlyArray<EndedAttempt>,
    wants: ReadonlyArray<Want>,
    tell: (recorded: Recorded) => void = nobody
  ): Effect.fn.Return<Finished, BrokerError> {
    const finishing = parametersOf(worker, attempts)
    if (attempts.some(({ end }) => keepsItsPlace(end))) claiming.lowWater.forget()
    let recorded: Recorded | undefined
    const record = (rows: ReadonlyArray<Row>) => {
      recorded = recordedIn(rows, attempts)
      tell(recorded)
    }
    const fused = (sql: string) => (parameters: ReadonlyArray<unknown>) =>
      Effect.map(database.run(sql, [...finishing, ...parameters]), (rows) => {
        record(rows.filter((row) => row[0] !== null && !isClaimed(row)))
        return rows
      })
    const claimed = yield* claiming.claimWith(worker, wants, {
      open: fused(withOpenSql),
      limited: fused(withLimitedSql)
    })
    if (recorded === undefined) record(yield* database.run(finishSql, finishing))
    return { ...recorded!, claimed }
  })
}
