/** Snapshots of workers. They are written by heartbeats: see recovering.ts. */
import * as Effect from "effect/Effect"
import type { BrokerError, ChildOccupancy, QueueOccupancy, WorkerSnapshot, WorkerState } from "../Broker.ts"
import { type Database, float, integer, type Row, text, uuid } from "./Database.ts"

/** As the last parameters of a heartbeat, in the order of its statement. */
export const snapshotParameters = (snapshot: WorkerSnapshot): ReadonlyArray<unknown> => [
  integer(snapshot.running),
  integer(snapshot.claimed),
  float(snapshot.memory),
  float(snapshot.cpu),
  text(JSON.stringify(snapshot.queues)),
  text(JSON.stringify(snapshot.processes)),
  text(JSON.stringify(snapshot.settings))
]

const columns = (s: string) =>
  `${s}.worker, ${s}.taken_at, ${s}.pid, ${s}.host, ${s}.running, ${s}.claimed, ${s}.memory, ${s}.cpu,
  ${s}.queues::text, ${s}.processes::text, ${s}.settings::text`

/** horsies_worker_states_pkey */
const ofWorkerStatement = (schema: string) => `
select ${columns("s")} from ${schema}.horsies_worker_states s where s.worker = $1 order by s.taken_at desc`

/** One step per worker. horsies_worker_states_pkey */
const lastStatement = (schema: string) => `
with recursive last as (
  (
    select s.worker, s.taken_at from ${schema}.horsies_worker_states s order by s.worker desc, s.taken_at desc limit 1
  )
  union all
  select n.worker, n.taken_at
  from last l
  cross join lateral (
    select s.worker, s.taken_at from ${schema}.horsies_worker_states s
    where s.worker < l.worker order by s.worker desc, s.taken_at desc limit 1
  ) n
)
select ${columns("s")}
from last l join ${schema}.horsies_worker_states s on s.worker = l.worker and s.taken_at = l.taken_at`

const stateOf = (row: Row): WorkerState => {
  const [worker, at, pid, host, running, claimed, memory, cpu, queues, processes, settings] = row
  return {
    worker: worker as string,
    at: (at as Date).getTime(),
    pid: pid as number,
    host: host as string,
    running: running as number,
    claimed: claimed as number,
    memory: memory as number,
    cpu: cpu as number,
    queues: JSON.parse(queues as string) as ReadonlyArray<QueueOccupancy>,
    // What is unknown is left out by JSON.
    processes: (JSON.parse(processes as string) as ReadonlyArray<Partial<ChildOccupancy>>).map((
      { memory, pid, running }
    ) => ({
      pid,
      running: running ?? 0,
      memory
    })),
    settings: JSON.parse(settings as string) as WorkerState["settings"]
  }
}

export const make =
  ({ run, schema }: Database) => (worker?: string): Effect.Effect<ReadonlyArray<WorkerState>, BrokerError> =>
    Effect.map(
      worker === undefined ? run(lastStatement(schema), []) : run(ofWorkerStatement(schema), [uuid(worker)]),
      (rows) => rows.map(stateOf)
    )
