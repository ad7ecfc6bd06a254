/** What both claims answer with: the tasks that were claimed, and remarks about queues. */
import { epochMillis } from "./common.ts"

export const claimedColumns = `id uuid, fence integer, name text, queue text, payload text, priority smallint,
  attempt integer, losses smallint, due_at float8, waited float8,
  version smallint, concurrency_key text, timeout float8, expires_in float8`

/** None for one that no client could read: it was put there by other hands. Up to 60,000 bytes, however compressed, are not. */
const payload =
  `case when pg_column_size(t.payload) <= 60000 or octet_length(t.payload::text) <= 8000000 then t.payload::text end`

export const claimedOf = `t.id, t.fence, t.name::text, t.queue::text, ${payload}, t.priority, t.attempts + 1, t.losses,
    ${epochMillis("t.run_at")}, ${epochMillis("v_now")} - ${epochMillis("t.run_at")},
    t.version, t.concurrency_key::text, t.timeout, ${epochMillis("t.good_until")} - ${epochMillis("v_now")}`

/** A row that says something about a queue instead of being a task: what, and a number or a key. `from` may make it several. */
export const remark = (what: string, queue: string, key: string, number: string, from = "") =>
  `return query select null::uuid, null::integer, '${what}'::text, ${queue}::text, ${key}::text, null::smallint,
      null::integer, null::smallint, ${number}::float8, null::float8, null::smallint, null::text, null::float8,
      null::float8${from};`

export const isAlive = (schema: string) =>
  `exists (select from ${schema}.horsies_heartbeats b where b.worker = p_worker and b.died_at is null)`
