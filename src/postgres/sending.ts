/** Storing tasks. */
import * as Effect from "effect/Effect"
import type { BrokerError, NewTask } from "../Broker.ts"
import { monotonic } from "../connection/Deadlines.ts"
import { type Database, floats, integers, texts, uuids } from "./Database.ts"
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
  insert into ${schema}.horsies_tasks (id, queue, name, due, priority, run_at, sent_at, max_losses, payload)
  select n.id, n.queue, n.name, due.run_at <= ${schema}.horsies_now(), n.priority, due.run_at, ${schema}.horsies_now(),
    n.max_losses, n.payload::json
  from unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::float8[], $6::float8[], $7::int[], $8::text[])
    as n (id, queue, name, priority, after, at, max_losses, payload)
  cross join lateral (
    select case
      when n.at is null then ${schema}.horsies_now() + n.after * interval '1 millisecond'
      else to_timestamp(n.at / 1000)
    end as run_at
  ) due
  returning queue, priority, run_at
)
select queue::text, min(priority)::int, (extract(epoch from min(run_at) - ${schema}.horsies_now()) * 1000)::float8
from sent
group by queue`

export const make = Effect.fnUntraced(function*(database: Database, wakeUps: WakeUps) {
  const statement = insert(database.schema)

  const store = (tasks: ReadonlyArray<NewTask>): Effect.Effect<ReadonlyArray<Announcement>, BrokerError> =>
    Effect.map(
      database.run(statement, [
        uuids(tasks.map((task) => task.id)),
        texts(tasks.map((task) => task.queue)),
        texts(tasks.map((task) => task.name)),
        integers(tasks.map((task) => task.priority)),
        floats(tasks.map((task) => "after" in task.due ? task.due.after : null)),
        floats(tasks.map((task) => "at" in task.due ? task.due.at : null)),
        integers(tasks.map((task) => task.maxLosses)),
        texts(tasks.map((task) => task.payload))
      ]),
      (rows) =>
        rows.map(([queue, priority, dueIn]) => ({
          queue: queue as string,
          priority: priority as number,
          dueIn: dueIn as number
        }))
    )

  const shared = yield* Gather.make<ReadonlyArray<NewTask>, void, BrokerError>({
    lanes,
    most: mostCalls,
    fits,
    run: (calls) => Effect.as(Effect.flatMap(store(calls.flat()), wakeUps.announce), calls.map(() => undefined)),
    divides: (error) => !error.isRetryable
  })

  return (tasks: ReadonlyArray<NewTask>): Effect.Effect<void, BrokerError> => {
    if (tasks.length === 0) return Effect.void
    return Effect.flatMap(database.inTransaction, (joins) =>
      joins
        ? Effect.flatMap(store(tasks), (announcements) => {
          const storedAt = monotonic()
          // By the commit they are due that much sooner.
          return database.afterCommit(Effect.suspend(() => {
            const passed = monotonic() - storedAt
            return wakeUps.announce(announcements.map((one) => ({ ...one, dueIn: one.dueIn - passed })))
          }))
        })
        : shared(tasks))
  }
})

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
