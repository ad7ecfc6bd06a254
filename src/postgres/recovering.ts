/** Workers' heartbeats, and taking tasks away from the dead. */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { Beat, Broker, BrokerError, Hold, Recovered, WorkerSnapshot, WorkerStart } from "../Broker.ts"
import { type Database, float, floats, integer, integers, text, texts, uuid, uuids } from "./Database.ts"
import { snapshotParameters } from "./workerStates.ts"

/** Tasks per batch of a recovery, and due tasks per promotion. */
const batchSize = 1000

/** Workers that wait for the same due time come one after another, within these milliseconds. */
const dueJitter = 2

/** Once more, as after an answer that was lost, is a heartbeat. horsies_heartbeats_pkey, horsies_definitions_pkey */
const registerStatement = (schema: string) => `
with defined as (
  insert into ${schema}.horsies_definitions as d (
    name, queue, version, priority, max_losses, timeout, retention, idempotency_window, seen_at
  )
  select n.name, n.queue, n.version, n.priority, n.max_losses, n.timeout, n.retention, n.idempotency_window,
    ${schema}.horsies_now()
  from unnest($5::text[], $6::text[], $7::int[], $8::int[], $9::int[], $10::float8[], $11::float8[], $12::float8[])
    as n (queue, name, version, priority, max_losses, timeout, retention, idempotency_window)
  order by n.name
  on conflict (name) do update set queue = excluded.queue, version = excluded.version, priority = excluded.priority,
    max_losses = excluded.max_losses, timeout = excluded.timeout, retention = excluded.retention,
    idempotency_window = excluded.idempotency_window, seen_at = excluded.seen_at
  -- While an older version is still running, the newer one is right.
  where d.version <= excluded.version
)
insert into ${schema}.horsies_heartbeats as h (
  worker, started_at, beat_at, reachable_since, lease, host, pid, queues, names, versions
)
values (
  $1, ${schema}.horsies_now(), ${schema}.horsies_now(), ${schema}.horsies_reachable_since(), $2 * interval '1 millisecond',
  $3, $4, $5, $6, $7
)
on conflict (worker) do update set beat_at = excluded.beat_at, reachable_since = excluded.reachable_since,
  queues = excluded.queues, names = excluded.names, versions = excluded.versions
where h.died_at is null`

/** It need not wait for the disk. horsies_heartbeats_pkey; few rows, all of which the function reads */
const beat = (schema: string) => `
  update ${schema}.horsies_heartbeats
  set beat_at = ${schema}.horsies_now(), reachable_since = ${schema}.horsies_reachable_since(), running = $2
  where worker = $1 and died_at is null and set_config('synchronous_commit', 'off', true) is not null
  returning worker, beat_at, pid, host`

/** horsies_tasks_claimed */
const cancelling = (schema: string) => `
select array(
  select t.id from ${schema}.horsies_tasks t where t.worker = $1 and t.state = 'CLAIMED' and t.cancelling
)
from beat`

const heartbeatStatement = (schema: string) => `
with beat as (${beat(schema)}
)${cancelling(schema)}`

/** A heartbeat that carries a snapshot. horsies_worker_states_pkey */
const snapshotStatement = (schema: string) => `
with beat as (${beat(schema)}
),
kept as (
  insert into ${schema}.horsies_worker_states (
    worker, taken_at, pid, host, running, claimed, memory, cpu, queues, processes, settings
  )
  select b.worker, b.beat_at, b.pid, b.host, $3, $4, $5, $6, $7::json, $8::json, $9::json from beat b
  on conflict (worker, taken_at) do nothing
)${cancelling(schema)}`

const deregisterStatement = (schema: string) => `
delete from ${schema}.horsies_heartbeats where worker = $1`

/** horsies_tasks_claimed */
const holdsStatement = (schema: string) => `
select id, fence from ${schema}.horsies_tasks where worker = $1 and state = 'CLAIMED'`

/** horsies_tasks_pkey */
const releaseStatement = (schema: string) => `
select id, queue, priority, cancelled from ${schema}.horsies_release($1, $2, $3)`

/** horsies_tasks_delayed, horsies_tasks_expiring */
const promoteStatement = (schema: string) => `
select next, expired from ${schema}.horsies_promote($1, ${batchSize})`

/**
 * What is left to the worker `b`. Nobody is declared dead until the server has been up, and reachable, for one lease: after
 * an outage every worker gets the time to renew. Both are asked where the heartbeats are: what a worker has heard may be
 * older than an outage, or come from a server that is not the one any more. What a clock that was ahead has left counts for
 * nothing.
 */
const timeLeft = (schema: string) =>
  `greatest(
    greatest(
      case when b.beat_at <= ${schema}.horsies_now() + b.lease then b.beat_at end,
      (select ${schema}.horsies_reachable_since())
    ) + b.lease - ${schema}.horsies_now(),
    case when pg_postmaster_start_time() between statement_timestamp() - b.lease and statement_timestamp()
      then pg_postmaster_start_time() + b.lease - statement_timestamp() end
  )`

/**
 * Marks the dead, the first step of a recovery, and tells when to look for the next. The condition is on the rows that are
 * locked: one that was renewed meanwhile is checked again as it is by then.
 */
const buryStatement = (schema: string) => `
with dead as (
  update ${schema}.horsies_heartbeats h set died_at = ${schema}.horsies_now()
  where h.worker in (
    select b.worker from ${schema}.horsies_heartbeats b
    where b.died_at is null and ${timeLeft(schema)} < interval '0'
    for update skip locked
  )
  returning h.worker
)
select (select count(*)::int from dead), (
  select extract(epoch from min(${timeLeft(schema)}))::float8 * 1000
  from ${schema}.horsies_heartbeats b
  where b.died_at is null and ${timeLeft(schema)} >= interval '0'
)`

/** Frees the tasks of the dead, the second step. horsies_tasks_claimed */
const recoverStatement = (schema: string) => `
select released, failed, cancelled from ${schema}.horsies_recover(${batchSize})`

export const make = (database: Database, options: {
  /** Where heartbeats go: a session of their own, so that they never wait behind other statements. */
  readonly session: Database
  /** Why there can be no worker, if there is a reason. */
  readonly noWorker: BrokerError | undefined
  /** Tasks have become ready out of turn. */
  readonly ready: Effect.Effect<void>
  /** Tasks have ended without anybody finishing them. */
  readonly ended: (ids: ReadonlyArray<string>) => void
}) => {
  const { schema } = database

  const register = (worker: WorkerStart): Effect.Effect<void, BrokerError> =>
    options.noWorker !== undefined ? Effect.fail(options.noWorker) : Effect.asVoid(
      options.session.run(registerStatement(schema), [
        uuid(worker.id),
        float(worker.lease),
        text(worker.host),
        integer(worker.pid),
        texts(worker.handles.map(({ queue }) => queue)),
        texts(worker.handles.map(({ name }) => name)),
        integers(worker.handles.map(({ version }) => version)),
        integers(worker.handles.map(({ priority }) => priority)),
        integers(worker.handles.map(({ maxLosses }) => maxLosses)),
        floats(worker.handles.map(({ timeout }) => timeout ?? null)),
        floats(worker.handles.map(({ retention }) => retention ?? null)),
        floats(worker.handles.map(({ idempotencyWindow }) => idempotencyWindow))
      ])
    )

  const heartbeat = (
    worker: string,
    running: ReadonlyArray<Hold>,
    snapshot?: WorkerSnapshot
  ): Effect.Effect<Beat, BrokerError> => {
    const hold = [uuid(worker), uuids(running.map((hold) => hold.id))]
    const statement = snapshot === undefined
      ? options.session.run(heartbeatStatement(schema), hold)
      : options.session.run(snapshotStatement(schema), [...hold, ...snapshotParameters(snapshot)])
    return Effect.map(statement, ([row]) =>
      row === undefined
        ? dead
        : { alive: true, cancelling: row[0] as ReadonlyArray<string> })
  }

  const deregister = (worker: string) => Effect.asVoid(database.run(deregisterStatement(schema), [uuid(worker)]))

  const holds = (worker: string): Effect.Effect<ReadonlyArray<Hold>, BrokerError> =>
    Effect.map(
      database.run(holdsStatement(schema), [uuid(worker)]),
      (rows) => rows.map(([id, fence]) => ({ id: id as string, fence: fence as number }))
    )

  const release = Effect.fnUntraced(function*(worker: string, holds: ReadonlyArray<Hold>) {
    if (holds.length === 0) return
    const rows = yield* database.run(releaseStatement(schema), [
      uuid(worker),
      uuids(holds.map((hold) => hold.id)),
      integers(holds.map((hold) => hold.fence))
    ])
    options.ended(rows.filter((row) => row[3] === true).map((row) => row[0] as string))
    if (rows.length > 0) yield* options.ready
  })

  const promote = (queues: ReadonlyArray<string>) =>
    Effect.flatMap(database.run(promoteStatement(schema), [texts(queues)]), ([row]) => {
      const next = row?.[0] as number | null ?? undefined
      options.ended(row?.[1] as ReadonlyArray<string>)
      // Nothing to wait for, or more is due right now.
      if (next === undefined || next <= 0) return Effect.succeed(next)
      return Effect.map(Random.next, (random) => next + random * dueJitter)
    })

  const recover: Broker["Service"]["recover"] = Effect.gen(function*() {
    const [buried] = yield* database.run(buryStatement(schema), [])
    const counts = { workers: buried![0] as number, released: 0, failed: 0 }
    let over = 0
    let found: number
    do {
      const [row] = yield* database.run(recoverStatement(schema), [])
      const [released, failed, cancelled] = row as unknown as ReadonlyArray<ReadonlyArray<string>>
      found = released!.length + failed!.length + cancelled!.length
      over += found
      counts.released += released!.length
      counts.failed += failed!.length
      options.ended([...failed!, ...cancelled!])
    } while (found === batchSize)
    // What has ended has counted against limits, too.
    if (over > 0) yield* options.ready
    return { ...counts, nextIn: buried![1] as number | null ?? undefined } satisfies Recovered
  })

  return { register, heartbeat, deregister, holds, release, promote, recover }
}

const dead: Beat = { alive: false, cancelling: [] }
