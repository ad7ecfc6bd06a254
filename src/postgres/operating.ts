/** What people do to tasks and queues: cancel, send again, pause, limit. */
import * as Effect from "effect/Effect"
import type { Broker, Cancelled, Filter, QueueSettings, Rate } from "../Broker.ts"
import { type Database, float, integer, type Row, text, uuid } from "./Database.ts"
import { filterArguments, filterParameters } from "./finding.ts"
import type { WakeUps } from "./wakeUps.ts"

/** Tasks per batch. */
const batchSize = 1000

const cancelStatement = (schema: string) => `
select cancelled, requested, last from ${schema}.horsies_cancel(${filterArguments}, ${batchSize}, $7)`

const resendStatement = (schema: string) => `
select origin, id, queue, priority from ${schema}.horsies_resend(${filterArguments}, $7::text::timestamptz, ${batchSize})`

const nowStatement = (schema: string) => `select ${schema}.horsies_now()::text`

/** horsies_queues_pkey */
const queueStatement = (schema: string) => `
select paused, concurrency, rate, rate_per, burst, key_concurrency, key_rate, key_rate_per, key_burst
from ${schema}.horsies_queues where queue = $1`

const pauseStatement = (schema: string) => `
insert into ${schema}.horsies_queues as q (queue, paused) values ($1, $2)
on conflict (queue) do update set paused = excluded.paused`

/**
 * Tasks that are claimed already count from now on; those of claims that are under way, from the next recovery on. Locked in
 * the order in which finishes lock. horsies_tasks_claimed
 */
const limitStatement = (schema: string) => `
with limited as (
  insert into ${schema}.horsies_queues as q (
    queue, concurrency, rate, rate_per, burst, key_concurrency, key_rate, key_rate_per, key_burst
  )
  values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
  on conflict (queue) do update set concurrency = excluded.concurrency, rate = excluded.rate,
    rate_per = excluded.rate_per, burst = excluded.burst, key_concurrency = excluded.key_concurrency,
    key_rate = excluded.key_rate, key_rate_per = excluded.key_rate_per, key_burst = excluded.key_burst
)
update ${schema}.horsies_tasks set counted = true
where id = any (array(
  select id from ${schema}.horsies_tasks where state = 'CLAIMED' and queue = $1 and not counted order by id for no key update
))`

const rateOf = (limit: unknown, per: unknown, burst: unknown): Rate | undefined =>
  limit === null ? undefined : { limit: limit as number, per: per as number, burst: burst as number }

export const settingsOf = (row: Row | undefined): QueueSettings => {
  if (row === undefined) return { paused: false, limits: {} }
  const keyConcurrency = (row[5] ?? undefined) as number | undefined
  const keyRate = rateOf(row[6], row[7], row[8])
  return {
    paused: row[0] as boolean,
    limits: {
      concurrency: (row[1] ?? undefined) as number | undefined,
      rate: rateOf(row[2], row[3], row[4]),
      perKey: keyConcurrency === undefined && keyRate === undefined
        ? undefined
        : { concurrency: keyConcurrency, rate: keyRate }
    }
  }
}

const optional = (of: (value: number) => unknown, value: number | undefined) => value === undefined ? null : of(value)

const rateParameters = (rate: Rate | undefined) => [
  optional(float, rate?.limit),
  optional(float, rate?.per),
  optional(float, rate === undefined ? undefined : rate.burst ?? Math.max(1, rate.limit))
]

export const make = (database: Database, wakeUps: WakeUps, cancelled: (ids: ReadonlyArray<string>) => void) => {
  const { schema } = database

  const cancel = Effect.fnUntraced(function*(filter: Filter) {
    const parameters = yield* filterParameters(filter)
    const all = { cancelled: [] as Array<string>, requested: [] as Array<string> }
    let found: number
    let after = "00000000-0000-0000-0000-000000000000"
    do {
      const [row] = yield* database.run(cancelStatement(schema), [...parameters, uuid(after)])
      const [ended, requested, last] = row as unknown as [ReadonlyArray<string>, ReadonlyArray<string>, string | null]
      found = ended.length + requested.length
      after = last ?? after
      all.cancelled.push(...ended)
      all.requested.push(...requested)
      yield* database.afterCommit(Effect.andThen(
        Effect.sync(() => cancelled(ended)),
        requested.length === 0 ? Effect.void : wakeUps.cancel(requested)
      ))
    } while (found === batchSize)
    return all satisfies Cancelled
  })

  const resend = Effect.fnUntraced(function*(filter: Filter) {
    const parameters = yield* filterParameters(filter)
    // What is sent again may fail at once: that is not to be sent once more.
    const [now] = yield* database.run(nowStatement(schema), [])
    const all: Array<{ readonly origin: string; readonly id: string }> = []
    let found: number
    do {
      const rows = yield* database.run(resendStatement(schema), [...parameters, text(now![0] as string)])
      found = rows.length
      for (const row of rows) all.push({ origin: row[0] as string, id: row[1] as string })
      yield* database.afterCommit(
        wakeUps.announce(rows.map((row) => ({ queue: row[2] as string, priority: row[3] as number, dueIn: 0 })))
      )
    } while (found >= batchSize)
    return all
  })

  const queue = (queue: string) =>
    Effect.map(database.run(queueStatement(schema), [text(queue)]), ([row]) => settingsOf(row))

  const configureQueue: Broker["Service"]["configureQueue"] = Effect.fnUntraced(function*(queue, { limits, paused }) {
    if (limits !== undefined) {
      yield* database.run(limitStatement(schema), [
        text(queue),
        optional(integer, limits.concurrency),
        ...rateParameters(limits.rate),
        optional(integer, limits.perKey?.concurrency),
        ...rateParameters(limits.perKey?.rate)
      ])
    }
    if (paused !== undefined) yield* database.run(pauseStatement(schema), [text(queue), paused])
    yield* database.afterCommit(paused === true ? wakeUps.paused(queue) : wakeUps.announceAll)
  })

  return { cancel, resend, queue, configureQueue }
}
