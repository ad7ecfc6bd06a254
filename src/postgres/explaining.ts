/** Why a task does not run. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { BrokerError, EndState, QueueSettings, TaskRecord, WhyNotRunning } from "../Broker.ts"
import { type Database, float, integer, text, uuid } from "./Database.ts"

/** What the workers that are alive know: no version, when none handles the name in this queue. */
const knownStatement = (schema: string) => `
select max(h.version)
from ${schema}.horsies_heartbeats b
cross join lateral unnest(b.queues, b.names, b.versions) as h (queue, name, version)
where b.died_at is null and b.beat_at + b.lease >= ${schema}.horsies_now() and h.queue = $1 and h.name = $2`

/** horsies_tasks_counted */
const holdersStatement = (schema: string) => `
select t.id from ${schema}.horsies_tasks t
where t.queue = $1 and t.state = 'CLAIMED' and t.counted and ($2::text is null or t.concurrency_key = $2)
order by t.id`

/** Milliseconds since the epoch when a bucket has its next token. horsies_buckets_pkey */
const freeAtStatement = (schema: string) => `
select case when b.tokens + passed.millis * $3 / $4 < 1
  then (extract(epoch from b.at) * 1000)::float8 + (1 - b.tokens) * $4 / $3
end
from ${schema}.horsies_buckets b
cross join lateral (
  select greatest(0, extract(epoch from ${schema}.horsies_now() - b.at) * 1000)::float8 as millis
) passed
where b.queue = $1 and b.concurrency_key = $2`

/** More urgent tasks of the same lane. horsies_tasks_ready */
const aheadStatement = (schema: string) => `
select count(*)::int from (
  select from ${schema}.horsies_tasks t
  where t.queue = $1 and t.name = $2 and t.version = $3 and t.concurrency_key = $4
    and t.state = 'PENDING' and t.due and t.losses = 0
    and (t.priority, t.run_at, t.id) < ($5::smallint, to_timestamp($6 / 1000), $7)
  limit 1000
) ahead`

const nowStatement = (schema: string) => `
select (extract(epoch from ${schema}.horsies_now()) * 1000)::float8`

export const make = (
  database: Database,
  find: (id: string) => Effect.Effect<Option.Option<TaskRecord>, BrokerError>,
  settings: (queue: string) => Effect.Effect<QueueSettings, BrokerError>
) => {
  const { schema } = database
  const one = <A>(statement: string, parameters: ReadonlyArray<unknown>) =>
    Effect.map(database.run(statement, parameters), ([row]) => (row?.[0] ?? undefined) as A | undefined)

  return Effect.fnUntraced(function*(id: string): Effect.fn.Return<WhyNotRunning, BrokerError> {
    const task = Option.getOrUndefined(yield* find(id))
    if (task === undefined) return { _tag: "NotFound" }
    if (task.endedAt !== undefined) return { _tag: "Ended", state: task.state as EndState, at: task.endedAt }
    if (task.state === "CLAIMED") return { _tag: "Claimed", worker: task.worker! }
    const { concurrencyKey, name, queue } = task
    if (task.dueAt > (yield* one<number>(nowStatement(schema), []))!) return { _tag: "NotDue", dueAt: task.dueAt }
    const { limits, paused } = yield* settings(queue)
    if (paused) return { _tag: "Paused", queue }
    const known = yield* one<number>(knownStatement(schema), [text(queue), text(name)])
    if (known === undefined) return { _tag: "NoWorker", queue, name }
    if (known < task.version) return { _tag: "NewerVersion", version: task.version, known }

    const scopes = [
      { concurrency: limits.concurrency, rate: limits.rate, key: undefined },
      ...(concurrencyKey === undefined ? [] : [{ ...limits.perKey, key: concurrencyKey }])
    ]
    for (const { concurrency, key } of scopes) {
      if (concurrency === undefined) continue
      const rows = yield* database.run(holdersStatement(schema), [text(queue), key === undefined ? null : text(key)])
      if (rows.length >= concurrency) {
        const holders = rows.map((row) => row[0] as string)
        return { _tag: "Concurrency", limit: concurrency, concurrencyKey: key, holders }
      }
    }
    for (const { key, rate } of scopes) {
      if (rate === undefined) continue
      const freeAt = yield* one<number>(freeAtStatement(schema), [
        text(queue),
        text(key ?? ""),
        float(rate.limit),
        float(rate.per)
      ])
      if (freeAt !== undefined) return { _tag: "Rate", concurrencyKey: key, freeAt }
    }
    const ahead = yield* one<number>(aheadStatement(schema), [
      text(queue),
      text(name),
      integer(task.version),
      text(concurrencyKey ?? ""),
      integer(task.priority),
      float(task.dueAt),
      uuid(task.id)
    ])
    return { _tag: "Nothing", ahead: ahead ?? 0 }
  })
}
