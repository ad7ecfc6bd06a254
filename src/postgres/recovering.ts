/** Workers' heartbeats, and taking tasks away from the dead. */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { Broker, BrokerError, Hold, Recovered, WorkerStart } from "../Broker.ts"
import { type Database, float, integer, integers, text, texts, uuid, uuids } from "./Database.ts"

/** Tasks per batch of a recovery, and due tasks per promotion. */
const batchSize = 1000

/** Workers that wait for the same due time come one after another, within these milliseconds. */
const dueJitter = 2

/** How long the rows of dead workers are kept. */
const keepDead = "1 day"

/** Once more, as after an answer that was lost, is a heartbeat. horsies_heartbeats_pkey */
const registerStatement = (schema: string) => `
insert into ${schema}.horsies_heartbeats as h (worker, started_at, beat_at, lease, host, pid, queues)
values ($1, ${schema}.horsies_now(), ${schema}.horsies_now(), $2 * interval '1 millisecond', $3, $4, $5)
on conflict (worker) do update set beat_at = excluded.beat_at where h.died_at is null`

/** A heartbeat need not wait for the disk. horsies_heartbeats_pkey */
const heartbeatStatement = (schema: string) => `
update ${schema}.horsies_heartbeats set beat_at = ${schema}.horsies_now(), running = $2
where worker = $1 and died_at is null and set_config('synchronous_commit', 'off', true) is not null
returning worker`

const deregisterStatement = (schema: string) => `
delete from ${schema}.horsies_heartbeats where worker = $1`

/** horsies_tasks_claimed */
const holdsStatement = (schema: string) => `
select id, fence from ${schema}.horsies_tasks where worker = $1 and state = 'CLAIMED'`

/** horsies_tasks_pkey */
const releaseStatement = (schema: string) => `
select id from ${schema}.horsies_release($1, $2, $3) as id`

/** horsies_tasks_delayed */
const promoteStatement = (schema: string) => `
select ${schema}.horsies_promote($1, ${batchSize})`

/**
 * Marks the dead, the first step of a recovery. Nobody is declared dead until the server has been up for one lease:
 * after an outage of the server every worker gets the time to renew.
 */
const buryStatement = (schema: string) => `
update ${schema}.horsies_heartbeats h set died_at = ${schema}.horsies_now()
where h.worker in (
  select b.worker from ${schema}.horsies_heartbeats b
  where b.died_at is null and b.beat_at + b.lease < ${schema}.horsies_now()
    and pg_postmaster_start_time() + b.lease < statement_timestamp()
  for update skip locked
)
returning h.worker`

const sweepStatement = (schema: string) => `
delete from ${schema}.horsies_heartbeats where died_at < ${schema}.horsies_now() - interval '${keepDead}'`

/** Rows of waiters that are gone; those who still wait write theirs again. */
const sweepWaitersStatement = (schema: string) => `
delete from ${schema}.horsies_waiters where since < ${schema}.horsies_now() - interval '1 hour'`

/** Frees the tasks of the dead, the second step. horsies_tasks_claimed */
const recoverStatement = (schema: string) => `
select released, failed from ${schema}.horsies_recover(${batchSize})`

const prepareStatement = (schema: string) => `
select ${schema}.horsies_prepare_history(2)`

export const make = (database: Database, options: {
  /** Where heartbeats go: a session of their own, so that they never wait behind other statements. */
  readonly session: Database
  /** Why there can be no worker, if there is a reason. */
  readonly noWorker: BrokerError | undefined
  /** Tasks have become ready out of turn. */
  readonly ready: Effect.Effect<void>
  readonly failed: (ids: ReadonlyArray<string>) => void
}) => {
  const { schema } = database

  const register = (worker: WorkerStart): Effect.Effect<void, BrokerError> =>
    options.noWorker !== undefined ? Effect.fail(options.noWorker) : Effect.asVoid(
      options.session.run(registerStatement(schema), [
        uuid(worker.id),
        float(worker.lease),
        text(worker.host),
        integer(worker.pid),
        texts(worker.queues)
      ])
    )

  const heartbeat = (worker: string, running: ReadonlyArray<Hold>) =>
    Effect.map(
      options.session.run(heartbeatStatement(schema), [uuid(worker), uuids(running.map((hold) => hold.id))]),
      (rows) => rows.length > 0
    )

  const deregister = (worker: string) => Effect.asVoid(database.run(deregisterStatement(schema), [uuid(worker)]))

  const holds = (worker: string): Effect.Effect<ReadonlyArray<Hold>, BrokerError> =>
    Effect.map(
      database.run(holdsStatement(schema), [uuid(worker)]),
      (rows) => rows.map(([id, fence]) => ({ id: id as string, fence: fence as number }))
    )

  const release = Effect.fnUntraced(function*(worker: string, holds: ReadonlyArray<Hold>) {
    if (holds.length === 0) return
    yield* database.run(releaseStatement(schema), [
      uuid(worker),
      uuids(holds.map((hold) => hold.id)),
      integers(holds.map((hold) => hold.fence))
    ])
    yield* options.ready
  })

  const promote = (queues: ReadonlyArray<string>) =>
    Effect.flatMap(database.run(promoteStatement(schema), [texts(queues)]), ([row]) => {
      const next = row?.[0] as number | null ?? undefined
      // Nothing to wait for, or more is due right now.
      if (next === undefined || next <= 0) return Effect.succeed(next)
      return Effect.map(Random.next, (random) => next + random * dueJitter)
    })

  const recover: Broker["Service"]["recover"] = Effect.gen(function*() {
    const dead = yield* database.run(buryStatement(schema), [])
    const counts = { workers: dead.length, released: 0, failed: 0 }
    let found: number
    do {
      const [row] = yield* database.run(recoverStatement(schema), [])
      const [released, failed] = row as unknown as [ReadonlyArray<string>, ReadonlyArray<string>]
      found = released.length + failed.length
      counts.released += released.length
      counts.failed += failed.length
      options.failed(failed)
    } while (found === batchSize)
    if (counts.released > 0) yield* options.ready
    yield* database.run(sweepStatement(schema), [])
    yield* database.run(sweepWaitersStatement(schema), [])
    // A role that may not make tables can do without: what finds no partition goes to the overflow.
    yield* Effect.catch(
      database.run(prepareStatement(schema), []),
      (error) =>
        error.isRetryable
          ? Effect.fail(error)
          : Effect.annotateLogs(Effect.logDebug("no partitions made"), error.annotations)
    )
    return counts satisfies Recovered
  })

  return { register, heartbeat, deregister, holds, release, promote, recover }
}
