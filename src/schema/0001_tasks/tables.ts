/** Types, tables and their indexes. */

/** Columns that live and ended tasks share. Wide ones last; fixed ones first and by alignment: that keeps rows narrow. */
const shared = (schema: string) => ({
  times: `run_at timestamptz not null,
  sent_at timestamptz not null,
  good_until timestamptz,
  timeout float8,
  retention float8`,
  texts: `worker uuid,
  origin uuid,
  queue text collate "C" not null,
  name text collate "C" not null,
  concurrency_key text collate "C" not null default '',
  payload json not null,
  tags jsonb,
  past json[]`,
  state: `state ${schema}.horsies_task_state not null`
})

export const types = (schema: string) => [
  `create type ${schema}.horsies_task_state as enum
  ('PENDING', 'CLAIMED', 'COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')`,

  // Every statement asks this function for the time, so that a test database can move its clock by replacing it. The
  // start of the statement, not of the transaction: a send in a long transaction is due when it is made.
  `create function ${schema}.horsies_now() returns timestamptz
  language sql stable parallel safe
  as 'select statement_timestamp()'`
]

const tasks = (schema: string) => {
  const { state, texts, times } = shared(schema)
  return [
    `create table ${schema}.horsies_tasks (
  id uuid primary key,
  ${times},
  fence integer not null default 0,
  attempts integer not null default 0,
  ${state} default 'PENDING'
    constraint horsies_tasks_live check (state in ('PENDING', 'CLAIMED')),
  priority smallint not null check (priority between 1 and 100),
  version smallint not null default 1 check (version >= 1),
  losses smallint not null default 0,
  max_losses smallint not null default 3,
  due boolean not null,
  counted boolean not null default false,
  cancelling boolean not null default false,
  ${texts},
  constraint horsies_tasks_held check ((worker is not null) = (state = 'CLAIMED'))
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 10000,
  autovacuum_vacuum_cost_delay = 0
)`,
    `comment on table ${schema}.horsies_tasks is 'live tasks; what has ended is in horsies_history'`,
    `comment on column ${schema}.horsies_tasks.due is 'false while the task waits for run_at'`,
    `comment on column ${schema}.horsies_tasks.counted is 'claimed from a queue with limits'`,
    `comment on column ${schema}.horsies_tasks.cancelling is 'to be cancelled by whoever holds it'`,
    `comment on column ${schema}.horsies_tasks.past is 'attempts that ended without ending the task, and losses'`,

    // Claims: one range of this index per lane.
    `create index horsies_tasks_ready on ${schema}.horsies_tasks
  (queue, name, version, concurrency_key, priority, run_at, id)
  where state = 'PENDING' and due and losses = 0`,
    // Claims of tasks that have cost a worker before; they are never claimed ahead.
    `create index horsies_tasks_suspect on ${schema}.horsies_tasks (queue, name, version, priority, run_at, id)
  where state = 'PENDING' and due and losses > 0`,
    // Promotion of delayed tasks. They lie outside the ready index, so that an empty claim never reads them.
    `create index horsies_tasks_delayed on ${schema}.horsies_tasks (queue, run_at)
  where state = 'PENDING' and not due`,
    // Expiry of tasks that wait.
    `create index horsies_tasks_expiring on ${schema}.horsies_tasks (queue, good_until)
  where state = 'PENDING' and good_until is not null`,
    // Recovery: who holds what.
    `create index horsies_tasks_claimed on ${schema}.horsies_tasks (worker)
  where state = 'CLAIMED'`,
    // Limits: how many tasks of a queue and of a key are claimed.
    `create index horsies_tasks_counted on ${schema}.horsies_tasks (queue, concurrency_key)
  where state = 'CLAIMED' and counted`,
    // Look-ups by tags; a task without any costs nothing.
    `create index horsies_tasks_tags on ${schema}.horsies_tasks using gin (tags jsonb_path_ops)
  where tags is not null`
  ]
}

const history = (schema: string) => {
  const { state, texts, times } = shared(schema)
  return [
    `create table ${schema}.horsies_history (
  id uuid not null,
  ${times},
  started_at timestamptz,
  ended_at timestamptz not null,
  keep_until timestamptz,
  fence integer not null,
  attempts integer not null,
  ${state},
  priority smallint not null,
  version smallint not null,
  losses smallint not null,
  max_losses smallint not null,
  ${texts},
  successor uuid,
  failure text collate "C",
  result json
) partition by range (ended_at)`,
    `comment on table ${schema}.horsies_history is 'ended tasks, one partition per day (UTC) on which they ended'`,
    // Rows that find no partition. Not a default partition: that would have to be scanned for each new partition.
    `create table ${schema}.horsies_history_overflow (like ${schema}.horsies_history)`,
    ...["horsies_history", "horsies_history_overflow"].flatMap((table) => [
      // Look-ups by id. Ids are time-ordered, so this index grows at its end.
      `create index ${table}_id on ${schema}.${table} (id)`,
      // Dead letters.
      `create index ${table}_failed on ${schema}.${table} (id) where state = 'FAILED'`,
      // Removal of what has a retention of its own; everything else goes with its partition.
      `create index ${table}_keep on ${schema}.${table} (keep_until) where keep_until is not null`,
      `create index ${table}_tags on ${schema}.${table} using gin (tags jsonb_path_ops) where tags is not null`
    ])
  ]
}

/**
 * Since when the server has been reachable for workers, without an outage: as far as heartbeats tell that are written already,
 * so a heartbeat asks before it is written itself. An outage is when none has come for three quarters of the shortest lease
 * of those whose lease had not passed before. What a clock that was ahead has written does not count.
 */
export const reachableSince = (schema: string) =>
  `create or replace function ${schema}.horsies_reachable_since() returns timestamptz
language sql stable
as $$
  select case when l.at + min(b.lease) filter (where b.died_at is null and b.beat_at + b.lease >= l.at) * 0.75 >= n.now
    then least(max(b.reachable_since), n.now) else n.now end
  from (select ${schema}.horsies_now()) n (now)
  cross join lateral (
    select max(b.beat_at) from ${schema}.horsies_heartbeats b where b.beat_at <= n.now + interval '1 second'
  ) l (at)
  left join ${schema}.horsies_heartbeats b on b.beat_at <= l.at
  group by n.now, l.at
$$`

const others = (schema: string) => [
  `create table ${schema}.horsies_heartbeats (
  worker uuid primary key,
  started_at timestamptz not null,
  beat_at timestamptz not null,
  died_at timestamptz,
  reachable_since timestamptz not null,
  lease interval not null,
  pid integer not null,
  host text not null,
  queues text[] not null,
  names text[] not null,
  versions integer[] not null,
  running uuid[] not null default '{}'
) with (fillfactor = 50)`,
  `comment on table ${schema}.horsies_heartbeats is 'one row per worker start, updated in place'`,
  `comment on column ${schema}.horsies_heartbeats.reachable_since is
  'since when heartbeats have come without an outage of the server, as far as was known at beat_at'`,
  reachableSince(schema),

  // How workers were doing in the last half hour. Unlogged: nobody misses it after a crash.
  `create unlogged table ${schema}.horsies_worker_states (
  worker uuid,
  taken_at timestamptz,
  pid integer not null,
  running integer not null,
  claimed integer not null,
  memory float8 not null,
  cpu float8 not null,
  host text not null,
  queues json not null,
  processes json not null,
  settings json not null,
  primary key (worker, taken_at)
)`,
  `comment on table ${schema}.horsies_worker_states is 'snapshots of worker starts, kept for half an hour'`,
  `create index horsies_worker_states_taken on ${schema}.horsies_worker_states (taken_at)`,

  // Who awaits what. Unlogged: a waiter writes its rows again whenever it looks.
  `create unlogged table ${schema}.horsies_waiters (
  task uuid not null,
  listener text collate "C" not null,
  since timestamptz not null,
  primary key (task, listener)
)`,

  // No unique index can span the live table and the partitions of the history: keys have a table of their own.
  `create table ${schema}.horsies_idempotency_keys (
  name text collate "C",
  key text collate "C",
  task uuid not null,
  expires_at timestamptz not null,
  primary key (name, key)
)`,
  `create index horsies_idempotency_keys_expires on ${schema}.horsies_idempotency_keys (expires_at)`,

  // What is set for a queue, by all and for all. Claims of a queue with limits lock its row.
  `create table ${schema}.horsies_queues (
  queue text collate "C" primary key,
  paused boolean not null default false,
  limited boolean not null generated always as (num_nonnulls(concurrency, rate, key_concurrency, key_rate) > 0) stored,
  concurrency integer check (concurrency >= 1),
  rate float8 check (rate > 0),
  rate_per float8 check (rate_per > 0),
  burst float8 check (burst >= 1),
  key_concurrency integer check (key_concurrency >= 1),
  key_rate float8 check (key_rate > 0),
  key_rate_per float8 check (key_rate_per > 0),
  key_burst float8 check (key_burst >= 1)
)`,
  `comment on column ${schema}.horsies_queues.rate is 'starts per rate_per milliseconds, in a token bucket of burst tokens'`,

  // Token buckets: of a queue (key '') and of its keys.
  `create table ${schema}.horsies_buckets (
  queue text collate "C",
  concurrency_key text collate "C",
  tokens float8 not null,
  at timestamptz not null,
  primary key (queue, concurrency_key)
)`,

  // Written by workers: what those need to know of a definition who send without it.
  `create table ${schema}.horsies_definitions (
  name text collate "C" primary key,
  queue text collate "C" not null,
  version integer not null,
  priority smallint not null,
  max_losses smallint not null,
  timeout float8,
  retention float8,
  idempotency_window float8 not null,
  seen_at timestamptz not null
)`
]

export const tables = (schema: string) => [...tasks(schema), ...history(schema), ...others(schema)]
