/** Storing tasks. */
import * as Effect from "effect/Effect"
import { type BrokerError, IdTaken, type NewTask, type Sent, type When } from "../Broker.ts"
import { monotonic, realClock } from "../connection/Deadlines.ts"
import { booleans, type Database, floats, integers, type Row, texts, uuids } from "./Database.ts"
import * as Gather from "./Gather.ts"
import type { Announcement, WakeUps } from "./wakeUps.ts"

/** Statements of sends under way at once: a second one hides the wait for the disk of the first. */
const lanes = 2

/** Calls that share a statement, and what a statement may carry. */
const mostCalls = 500
const mostTasks = 1000
const mostCharacters = 4_000_000

const insert = (schema: string) => `
with sent as (
  insert into ${schema}.horsies_tasks (
    id, queue, name, due, priority, run_at, sent_at, max_losses, payload, version, good_until, timeout, retention,
    concurrency_key, tags
  )
  select n.id, n.queue, n.name, due.run_at <= ${schema}.horsies_now(), n.priority, due.run_at, ${schema}.horsies_now(),
    n.max_losses, n.payload::json, n.version,
    coalesce(
      ${schema}.horsies_now() + n.good_after * interval '1 millisecond', to_timestamp(n.good_at / 1000)
    ),
    n.timeout, n.retention, coalesce(n.concurrency_key, ''), n.tags::jsonb
  from unnest(
    $1::uuid[], $2::text[], $3::text[], $4::int[], $5::float8[], $6::float8[], $7::int[], $8::text[], $9::int[],
    $10::float8[], $11::float8[], $12::float8[], $13::float8[], $14::text[], $15::text[]
  ) as n (
    id, queue, name, priority, after, at, max_losses, payload, version, good_after, good_at, timeout, retention,
    concurrency_key, tags
  )
  cross join lateral (
    select case
      when n.at is null then ${schema}.horsies_now() + n.after * interval '1 millisecond'
      else to_timestamp(n.at / 1000)
    end as run_at
  ) due
  returning queue, priority, run_at, due
)
select queue::text, min(priority)::int, (extract(epoch from min(run_at) - ${schema}.horsies_now()) * 1000)::float8
from sent
group by queue, due`

/** For tasks that may have been stored before. */
const storeStatement = (schema: string) => `
select id, duplicate, queue, priority, due_in
from ${schema}.horsies_store(
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18
)`

const afterOf = (when: When | undefined) => when !== undefined && "after" in when ? when.after : null
const atOf = (when: When | undefined) => when !== undefined && "at" in when ? when.at : null

const parametersOf = (tasks: ReadonlyArray<NewTask>) => [
  uuids(tasks.map((task) => task.id)),
  texts(tasks.map((task) => task.queue)),
  texts(tasks.map((task) => task.name)),
  integers(tasks.map((task) => task.priority)),
  floats(tasks.map((task) => afterOf(task.due))),
  floats(tasks.map((task) => atOf(task.due))),
  integers(tasks.map((task) => task.maxLosses)),
  texts(tasks.map((task) => task.payload)),
  integers(tasks.map((task) => task.version)),
  floats(tasks.map((task) => afterOf(task.goodUntil))),
  floats(tasks.map((task) => atOf(task.goodUntil))),
  floats(tasks.map((task) => task.timeout ?? null)),
  floats(tasks.map((task) => task.retention ?? null)),
  texts(tasks.map((task) => task.concurrencyKey ?? null)),
  texts(tasks.map((task) => task.tags === undefined ? null : JSON.stringify(task.tags)))
]

const mayBeThere = (task: NewTask) => task.repeated === true || task.idempotency !== undefined

interface Stored {
  readonly sent: ReadonlyArray<Sent>
  readonly announcements: ReadonlyArray<Announcement>
}

/** The most urgent of each queue, and the earliest: of what is due, and of what is not yet. */
const summary = (rows: ReadonlyArray<Row>): ReadonlyArray<Announcement> => {
  const found = new Map<string, Announcement>()
  for (const row of rows) {
    const [queue, priority, dueIn] = [row[2] as string, row[3] as number, row[4] as number | null]
    if (dueIn === null) continue
    const place = `${dueIn <= 0} ${queue}`
    const before = found.get(place) ?? { queue, priority, dueIn }
    found.set(place, {
      queue,
      priority: Math.min(priority, before.priority),
      dueIn: Math.min(dueIn, before.dueIn)
    })
  }
  return [...found.values()]
}

/** When it will be too late for them: workers look then. Only a hint, so by the clock of this process. */
const expiries = (tasks: ReadonlyArray<NewTask>): ReadonlyArray<Announcement> => {
  const found = new Map<string, Announcement>()
  for (const { goodUntil, priority, queue } of tasks) {
    if (goodUntil === undefined) continue
    const dueIn = "after" in goodUntil ? goodUntil.after : goodUntil.at - realClock.currentTimeMillisUnsafe()
    const before = found.get(queue)
    if (dueIn > 0 && (before === undefined || dueIn < before.dueIn)) found.set(queue, { queue, priority, dueIn })
  }
  return [...found.values()]
}

const isIdTaken = (error: BrokerError) => error.reason._tag === "Refused" && error.reason.sqlState === "HO001"

const idIn = (message: string) => /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/.exec(message)?.[0] ?? ""

export const make = Effect.fnUntraced(function*(database: Database, wakeUps: WakeUps) {
  const insertSql = insert(database.schema)
  const storeSql = storeStatement(database.schema)

  /** Tasks that nobody can have stored before. */
  const storeNew = (tasks: ReadonlyArray<NewTask>): Effect.Effect<Stored, BrokerError> =>
    Effect.map(database.run(insertSql, parametersOf(tasks)), (rows) => ({
      sent: tasks.map(({ id }) => ({ id, duplicate: false })),
      announcements: [
        ...rows.map(([queue, priority, dueIn]) => ({
          queue: queue as string,
          priority: priority as number,
          dueIn: dueIn as number
        })),
        ...expiries(tasks)
      ]
    }))

  const storeOnce = (tasks: ReadonlyArray<NewTask>): Effect.Effect<Stored, BrokerError | IdTaken> =>
    database.run(storeSql, [
      ...parametersOf(tasks),
      booleans(tasks.map((task) => task.repeated === true)),
      texts(tasks.map((task) => task.idempotency?.key ?? null)),
      floats(tasks.map((task) => task.idempotency?.window ?? null))
    ]).pipe(
      Effect.map((rows) => ({
        sent: rows.map(([id, duplicate]) => ({ id: id as string, duplicate: duplicate as boolean })),
        announcements: [...summary(rows), ...expiries(tasks)]
      })),
      Effect.mapError((error) => isIdTaken(error) ? new IdTaken({ id: idIn(error.reason.message) }) : error)
    )

  const share = (store: (tasks: ReadonlyArray<NewTask>) => Effect.Effect<Stored, BrokerError | IdTaken>) =>
    Gather.make<ReadonlyArray<NewTask>, ReadonlyArray<Sent>, BrokerError | IdTaken>({
      lanes,
      most: mostCalls,
      fits,
      run: (calls) =>
        Effect.flatMap(
          store(calls.flat()),
          ({ announcements, sent }) => Effect.as(wakeUps.announce(announcements), split(sent, calls))
        ),
      divides: (error) => error._tag === "IdTaken" || !error.isRetryable
    })
  const shareNew = yield* share(storeNew)
  const shareOnce = yield* share(storeOnce)

  const join = Effect.fnUntraced(function*(tasks: ReadonlyArray<NewTask>) {
    const { announcements, sent } = yield* tasks.some(mayBeThere) ? storeOnce(tasks) : storeNew(tasks)
    const storedAt = monotonic()
    // By the commit they are due that much sooner.
    yield* database.afterCommit(Effect.suspend(() => {
      const passed = monotonic() - storedAt
      return wakeUps.announce(
        announcements.map(({ dueIn, priority, queue }) => ({ queue, priority, dueIn: dueIn - passed }))
      )
    }))
    return sent
  })

  return (tasks: ReadonlyArray<NewTask>): Effect.Effect<ReadonlyArray<Sent>, BrokerError | IdTaken> => {
    if (tasks.length === 0) return Effect.succeed([])
    return Effect.flatMap(
      database.inTransaction,
      (joins) => joins ? join(tasks) : tasks.some(mayBeThere) ? shareOnce(tasks) : shareNew(tasks)
    )
  }
})

/** Gives each call its own part. */
const split = (sent: ReadonlyArray<Sent>, calls: ReadonlyArray<ReadonlyArray<NewTask>>) => {
  let from = 0
  return calls.map(({ length }) => sent.slice(from, from += length))
}

/** How many calls one statement of bounded size carries. */
const fits = (calls: ReadonlyArray<ReadonlyArray<NewTask>>): number => {
  let tasks = 0
  let characters = 0
  for (const [i, call] of calls.entries()) {
    tasks += call.length
    for (const task of call) characters += task.payload.length
    if (i > 0 && (tasks > mostTasks || characters > mostCharacters)) return i
  }
  return calls.length
}
