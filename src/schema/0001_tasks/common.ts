/** What the statements of this migration share. */

/** Planner settings under which the hot functions always walk their indexes. */
export const certainPlans = `
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
  set plan_cache_mode = force_generic_plan`

/** Milliseconds since the epoch, as attempts record them. */
export const epochMillis = (timestamp: string) => `(date_part('epoch', ${timestamp}) * 1000)`

/** What an ended task keeps of its row as it is. */
const kept = [
  "id",
  "queue",
  "name",
  "version",
  "concurrency_key",
  "priority",
  "run_at",
  "sent_at",
  "good_until",
  "timeout",
  "retention",
  "fence",
  "max_losses",
  "payload",
  "tags",
  "origin",
  "past"
]

/** The rows of live tasks `t` as they go to the history; the rest is said by whoever ends them. */
export const keptOf = (t: string) => kept.map((column) => `${t}.${column}`).join(", ")

/** Moves the rows of the CTE `ended` to the history, or to its overflow when no partition fits. */
export const keepEnded = (schema: string, then: string) => {
  const columns = `${kept.join(", ")}, state, attempts, losses, worker, started_at, ended_at, failure, result`
  const move = (table: string) =>
    `insert into ${schema}.${table} (${columns}, keep_until)
    select ${columns}, ended_at + retention * interval '1 millisecond' from ended`
  return { history: `${move("horsies_history")} ${then};`, overflow: `${move("horsies_history_overflow")} ${then};` }
}
