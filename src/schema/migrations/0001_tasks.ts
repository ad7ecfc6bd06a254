/**
 * Tasks, their history, workers' heartbeats and the functions of the hot path.
 *
 * The hot statements live in PL/pgSQL functions because a function keeps its plan per session, prepared statements or
 * not, and carries the planner settings that make that plan certain: a plan made while the table was empty must still
 * ride the index when it holds a million rows. A pooled session can carry neither.
 */

/** Planner settings under which the hot functions always walk their indexes. */
const certainPlans = `
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
  set plan_cache_mode = force_generic_plan`

/** What an ended task keeps of its row. */
const kept = "id, queue, name, priority, run_at, sent_at, fence, losses, max_losses, payload, past"

/** Milliseconds since the epoch, as attempts record them. */
const epochMillis = (timestamp: string) => `(date_part('epoch', ${timestamp}) * 1000)`

const types = (schema: string) => [
  `create type ${schema}.horsies_task_state as enum
  ('PENDING', 'CLAIMED', 'COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')`,

  // Every statement asks this function for the time, so that a test database can move its clock by replacing it. The
  // start of the statement, not of the transaction: a send in a long transaction is due when it is made.
  `create function ${schema}.horsies_now() returns timestamptz
  language sql stable parallel safe
  as 'select statement_timestamp()'`
]

const tables = (schema: string) => [
  // Live tasks and nothing else. Wide columns last; fixed ones first and by alignment, which keeps the rows narrow.
  `create table ${schema}.horsies_tasks (
  id uuid primary key,
  run_at timestamptz not null,
  sent_at timestamptz not null,
  fence integer not null default 0,
  attempts integer not null default 0,
  state ${schema}.horsies_task_state not null default 'PENDING'
    constraint horsies_tasks_live check (state in ('PENDING', 'CLAIMED')),
  priority smallint not null check (priority between 1 and 100),
  losses smallint not null default 0,
  max_losses smallint not null default 3,
  due boolean not null,
  worker uuid check ((worker is not null) = (state = 'CLAIMED')),
  queue text collate "C" not null,
  name text collate "C" not null,
  payload json not null,
  past json[]
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 10000,
  autovacuum_vacuum_cost_delay = 0
)`,
  `comment on table ${schema}.horsies_tasks is 'live tasks; what has ended is in horsies_history'`,
  `comment on column ${schema}.horsies_tasks.due is 'false while the task waits for run_at'`,
  `comment on column ${schema}.horsies_tasks.past is 'attempts that ended without ending the task, and losses'`,

  // Claims: one range of this index per lane.
  `create index horsies_tasks_ready on ${schema}.horsies_tasks (queue, name, priority, run_at, id)
  where state = 'PENDING' and due and losses = 0`,
  // Claims of tasks that have cost a worker before; they are never claimed ahead.
  `create index horsies_tasks_suspect on ${schema}.horsies_tasks (queue, name, priority, run_at, id)
  where state = 'PENDING' and due and losses > 0`,
  // Promotion of delayed tasks. They lie outside the ready index, so that an empty claim never reads them.
  `create index horsies_tasks_delayed on ${schema}.horsies_tasks (queue, run_at)
  where state = 'PENDING' and not due`,
  // Recovery: who holds what.
  `create index horsies_tasks_claimed on ${schema}.horsies_tasks (worker)
  where state = 'CLAIMED'`,

  `create table ${schema}.horsies_history (
  id uuid not null,
  run_at timestamptz not null,
  sent_at timestamptz not null,
  started_at timestamptz,
  ended_at timestamptz not null,
  fence integer not null,
  attempts integer not null,
  state ${schema}.horsies_task_state not null,
  priority smallint not null,
  losses smallint not null,
  max_losses smallint not null,
  worker uuid,
  queue text collate "C" not null,
  name text collate "C" not null,
  failure text collate "C",
  result json,
  payload json not null,
  past json[]
) partition by range (ended_at)`,
  `comment on table ${schema}.horsies_history is 'ended tasks, one partition per day (UTC) on which they ended'`,
  // Look-ups by id. Ids are time-ordered, so this index grows at its end.
  `create index horsies_history_id on ${schema}.horsies_history (id)`,
  // Rows that find no partition. Not a default partition: that would have to be scanned for each new partition.
  `create table ${schema}.horsies_history_overflow (like ${schema}.horsies_history)`,
  `create index horsies_history_overflow_id on ${schema}.horsies_history_overflow (id)`,

  `create table ${schema}.horsies_heartbeats (
  worker uuid primary key,
  started_at timestamptz not null,
  beat_at timestamptz not null,
  died_at timestamptz,
  lease interval not null,
  pid integer not null,
  host text not null,
  queues text[] not null,
  running uuid[] not null default '{}'
) with (fillfactor = 50)`,
  `comment on table ${schema}.horsies_heartbeats is 'one row per worker start, updated in place'`,

  // Who awaits what. Unlogged: a waiter writes its rows again whenever it looks.
  `create unlogged table ${schema}.horsies_waiters (
  task uuid not null,
  listener text collate "C" not null,
  since timestamptz not null,
  primary key (task, listener)
)`
]

/** Moves the rows of the CTE \`ended\` to the history, or to its overflow when no partition fits. */
const keepEnded = (schema: string, then: string) => {
  const columns = `${kept}, state, attempts, worker, started_at, ended_at, failure, result`
  const move = (table: string) => `insert into ${schema}.${table} (${columns})\n    select ${columns} from ended`
  return { history: `${move("horsies_history")} ${then};`, overflow: `${move("horsies_history_overflow")} ${then};` }
}

const partitionOf = (day: string) => `'horsies_history_' || to_char(${day}, 'YYYYMMDD')`

const partitions = (schema: string) => [
  // Whether an ended task has a partition to go to.
  `create function ${schema}.horsies_has_partition(p_at timestamptz) returns boolean
language sql stable
as $$
  select to_regclass(format('${schema}.%I', ${partitionOf("p_at at time zone 'UTC'")})) is not null
$$`,

  // Makes the partitions from today on. Made as a table of its own and attached: that locks out neither readers nor
  // writers of the others.
  `create function ${schema}.horsies_prepare_history(p_days integer) returns integer
language plpgsql
as $$
declare
  v_day date := (${schema}.horsies_now() at time zone 'UTC')::date;
  v_name text;
  v_made integer := 0;
begin
  for i in 0..p_days loop
    v_name := ${partitionOf("v_day")};
    if to_regclass(format('${schema}.%I', v_name)) is null then
      perform pg_advisory_xact_lock(hashtextextended('${schema}.horsies_history', 0));
    end if;
    -- Again: another caller may have made it while this one waited for the lock. The catalog itself is asked, because
    -- the session's cache of names does not hear of it while it waits.
    if not exists (
      select from pg_class c where c.relname = v_name and c.relnamespace = '${schema}'::regnamespace
    ) then
      execute format('create table ${schema}.%I (like ${schema}.horsies_history including indexes)', v_name);
      execute format(
        'alter table ${schema}.horsies_history attach partition ${schema}.%I for values from (%L) to (%L)',
        v_name, to_char(v_day, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(v_day + 1, 'YYYY-MM-DD') || ' 00:00:00+00'
      );
      v_made := v_made + 1;
    end if;
    v_day := v_day + 1;
  end loop;
  return v_made;
end
$$`
]

/**
 * Claims. \`p_slots\` tasks of a queue may start at once, \`p_ahead\` more may be held ready. A lane is a range of the ready
 * index: one queue, one name, from a (priority, due time) up to a priority. The lanes of a queue with a single name come
 * in the order of their priorities and are simply walked; with several names, a look at the heads of all lanes first
 * tells how many tasks of each belong to the most urgent ones.
 */
const claim = (schema: string) =>
  `create function ${schema}.horsies_claim(
  p_worker uuid,
  p_queues text[], p_slots integer[], p_ahead integer[],
  p_lane_queues integer[], p_lane_names text[],
  p_lane_from integer[], p_lane_from_at float8[], p_lane_to integer[]
) returns table (
  id uuid, fence integer, name text, queue text, payload text, priority smallint,
  attempt integer, losses smallint, due_at float8, waited float8
)
language plpgsql${certainPlans}
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_ids uuid[] := '{}';
  v_taken uuid[];
  v_lanes integer[];
  v_single boolean;
  v_counts integer[];
  v_rest integer;
  v_limit integer;
  v_lane integer;
begin
  if not exists (select from ${schema}.horsies_heartbeats b where b.worker = p_worker and b.died_at is null) then
    return;
  end if;

  for q in 1..cardinality(p_queues) loop
    v_lanes := array(select l from generate_subscripts(p_lane_queues, 1) l where p_lane_queues[l] = q order by l);

    -- horsies_tasks_suspect
    v_taken := array(
      select picked.id
      from (select distinct p_lane_names[l] as name from unnest(v_lanes) l) lane
      cross join lateral (
        select t.id from ${schema}.horsies_tasks t
        where t.queue = p_queues[q] and t.name = lane.name and t.state = 'PENDING' and t.due and t.losses > 0
        order by t.priority, t.run_at, t.id
        limit p_slots[q]
        for no key update skip locked
      ) picked
      limit p_slots[q]
    );
    v_ids := v_ids || v_taken;
    v_rest := p_slots[q] + p_ahead[q] - cardinality(v_taken);
    continue when v_rest <= 0;

    v_single := (select count(distinct p_lane_names[l]) = 1 from unnest(v_lanes) l);
    if not v_single then
      -- horsies_tasks_ready, without locks
      v_counts := array(
        select count(head.lane)::integer
        from unnest(v_lanes) with ordinality as ordered (lane, position)
        left join (
          select heads.lane
          from (
            select l as lane, h.priority, h.run_at, h.id
            from unnest(v_lanes) l
            cross join lateral (
              select t.priority, t.run_at, t.id from ${schema}.horsies_tasks t
              where t.queue = p_queues[q] and t.name = p_lane_names[l]
                and t.state = 'PENDING' and t.due and t.losses = 0
                and (t.priority, t.run_at) >= (
                  p_lane_from[l]::smallint, coalesce(to_timestamp(p_lane_from_at[l] / 1000), '-infinity')
                )
                and t.priority <= p_lane_to[l]::smallint
              order by t.priority, t.run_at, t.id
              limit v_rest
            ) h
          ) heads
          order by heads.priority, heads.run_at, heads.id
          limit v_rest
        ) head on head.lane = ordered.lane
        group by ordered.position
        order by ordered.position
      );
    end if;

    for i in 1..cardinality(v_lanes) loop
      v_limit := case when v_single then v_rest else least(v_rest, v_counts[i]) end;
      continue when v_limit <= 0;
      v_lane := v_lanes[i];
      -- horsies_tasks_ready; the limit stands above the lock, so no more rows are locked than asked for
      v_taken := array(
        select t.id from ${schema}.horsies_tasks t
        where t.queue = p_queues[q] and t.name = p_lane_names[v_lane]
          and t.state = 'PENDING' and t.due and t.losses = 0
          and (t.priority, t.run_at) >= (
            p_lane_from[v_lane]::smallint, coalesce(to_timestamp(p_lane_from_at[v_lane] / 1000), '-infinity')
          )
          and t.priority <= p_lane_to[v_lane]::smallint
        order by t.priority, t.run_at, t.id
        limit v_limit
        for no key update skip locked
      );
      v_ids := v_ids || v_taken;
      v_rest := v_rest - cardinality(v_taken);
      exit when v_rest <= 0;
    end loop;
  end loop;

  if cardinality(v_ids) = 0 then
    return;
  end if;
  -- horsies_tasks_pkey
  return query
  update ${schema}.horsies_tasks t
  set state = 'CLAIMED', fence = t.fence + 1, worker = p_worker
  where t.id = any (v_ids)
  returning t.id, t.fence, t.name::text, t.queue::text, t.payload::text, t.priority, t.attempts + 1, t.losses,
    ${epochMillis("t.run_at")}, ${epochMillis("v_now")} - ${epochMillis("t.run_at")};
end
$$`

const finish = (schema: string) => {
  const { history, overflow } = keepEnded(schema, "returning id")
  // horsies_tasks_pkey; the hold (task, fence, worker) decides
  const ended = `with ended as (
    delete from ${schema}.horsies_tasks t
    using unnest(p_ids, p_fences, p_elapsed, p_failures, p_results) as f (id, fence, elapsed, failure, result)
    where t.id = f.id and t.fence = f.fence and t.worker = p_worker
    returning t.id, t.queue, t.name, t.priority, t.run_at, t.sent_at, t.fence, t.losses, t.max_losses, t.payload,
      t.past, t.attempts + 1 as attempts, t.worker,
      (case when f.failure is null then 'COMPLETED' else 'FAILED' end)::${schema}.horsies_task_state as state,
      v_now - f.elapsed * interval '1 millisecond' as started_at, v_now as ended_at,
      f.failure, f.result::json as result
  )`
  return `create function ${schema}.horsies_finish(
  p_worker uuid, p_ids uuid[], p_fences integer[], p_elapsed float8[], p_failures text[], p_results text[]
) returns setof uuid
language plpgsql${certainPlans}
as $$
declare
  v_now timestamptz := ${schema}.horsies_now();
begin
  if ${schema}.horsies_has_partition(v_now) then
    return query
    ${ended}
    ${history}
  else
    return query
    ${ended}
    ${overflow}
  end if;
end
$$`
}

const retry = (schema: string) =>
  `create function ${schema}.horsies_retry(
  p_worker uuid, p_ids uuid[], p_fences integer[], p_elapsed float8[], p_failures text[], p_errors text[],
  p_delays float8[]
) returns table (id uuid, queue text, priority smallint)
language plpgsql${certainPlans}
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
begin
  -- horsies_tasks_pkey; the hold (task, fence, worker) decides
  return query
  update ${schema}.horsies_tasks t
  set state = 'PENDING', worker = null, attempts = t.attempts + 1,
    due = f.delay <= 0, run_at = v_now + f.delay * interval '1 millisecond',
    past = array_append(t.past, json_build_object(
      'attempt', t.attempts + 1, 'outcome', f.failure, 'worker', p_worker,
      'startedAt', ${epochMillis("v_now - f.elapsed * interval '1 millisecond'")}, 'endedAt', ${epochMillis("v_now")},
      'error', f.error::json
    ))
  from unnest(p_ids, p_fences, p_elapsed, p_failures, p_errors, p_delays)
    as f (id, fence, elapsed, failure, error, delay)
  where t.id = f.id and t.fence = f.fence and t.worker = p_worker
  returning t.id, t.queue::text, t.priority;
end
$$`

const release = (schema: string) =>
  `create function ${schema}.horsies_release(p_worker uuid, p_ids uuid[], p_fences integer[]) returns setof uuid
language plpgsql${certainPlans}
as $$
begin
  -- horsies_tasks_pkey; the hold (task, fence, worker) decides
  return query
  update ${schema}.horsies_tasks t
  set state = 'PENDING', worker = null
  from unnest(p_ids, p_fences) as h (id, fence)
  where t.id = h.id and t.fence = h.fence and t.worker = p_worker
  returning t.id;
end
$$`

const promote = (schema: string) =>
  `create function ${schema}.horsies_promote(p_queues text[], p_limit integer) returns float8
language plpgsql${certainPlans}
as $$
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_promoted integer;
  v_next float8;
begin
  -- horsies_tasks_delayed, then horsies_tasks_pkey
  update ${schema}.horsies_tasks t
  set due = true
  where t.id = any (array(
    select d.id
    from unnest(p_queues) q
    cross join lateral (
      select t.id from ${schema}.horsies_tasks t
      where t.queue = q and t.state = 'PENDING' and not t.due and t.run_at <= v_now
      order by t.run_at
      limit p_limit
      for no key update skip locked
    ) d
  ));
  get diagnostics v_promoted = row_count;
  if v_promoted >= p_limit then
    return 0;
  end if;
  -- horsies_tasks_delayed. What is due and still waits is being promoted by somebody else: its commit is a moment away.
  select min(${epochMillis("d.run_at")} - ${epochMillis("v_now")}) into v_next
  from unnest(p_queues) q
  cross join lateral (
    select t.run_at from ${schema}.horsies_tasks t
    where t.queue = q and t.state = 'PENDING' and not t.due
    order by t.run_at
    limit 1
  ) d;
  return case when v_next is not null then greatest(v_next, 2) end;
end
$$`

/**
 * Recovery, the second step: tasks held by workers that are dead or unknown. A claim that was in flight when its worker
 * was declared dead may land late, so this looks at who holds tasks, not at who has just died.
 */
const recover = (schema: string) => {
  const { history, overflow } = keepEnded(schema, "")
  const ended = `with ended as (
      delete from ${schema}.horsies_tasks t
      where t.id = any (v_ids) and t.losses + 1 >= t.max_losses
      returning t.id, t.queue, t.name, t.priority, t.run_at, t.sent_at, t.fence, (t.losses + 1)::smallint as losses,
        t.max_losses, t.payload, t.past, t.attempts, t.worker, 'FAILED'::${schema}.horsies_task_state as state,
        null::timestamptz as started_at, v_now as ended_at, 'Lost' as failure,
        to_json('lost ' || (t.losses + 1) || ' workers while they held the task') as result
    )`
  return `create function ${schema}.horsies_recover(p_limit integer) returns table (released uuid[], failed uuid[])
language plpgsql${certainPlans}
as $$
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_gone uuid[];
  v_ids uuid[];
begin
  -- horsies_tasks_claimed, one step per holder, never per task
  v_gone := array(
    with recursive holders (worker) as (
      (select t.worker from ${schema}.horsies_tasks t where t.state = 'CLAIMED' order by t.worker limit 1)
      union all
      select (
        select t.worker from ${schema}.horsies_tasks t
        where t.state = 'CLAIMED' and t.worker > h.worker order by t.worker limit 1
      ) from holders h where h.worker is not null
    )
    select h.worker from holders h
    where h.worker is not null
      and not exists (select from ${schema}.horsies_heartbeats b where b.worker = h.worker and b.died_at is null)
  );
  -- horsies_tasks_claimed
  v_ids := array(
    select t.id from ${schema}.horsies_tasks t
    where t.state = 'CLAIMED' and t.worker = any (v_gone)
    limit p_limit
    for update skip locked
  );
  failed := array(
    select t.id from ${schema}.horsies_tasks t where t.id = any (v_ids) and t.losses + 1 >= t.max_losses
  );
  if cardinality(failed) > 0 then
    if ${schema}.horsies_has_partition(v_now) then
      ${ended}
      ${history}
    else
      ${ended}
      ${overflow}
    end if;
  end if;
  with freed as (
    update ${schema}.horsies_tasks t
    set state = 'PENDING', worker = null, losses = t.losses + 1,
      past = array_append(t.past, json_build_object(
        'attempt', t.attempts + 1, 'outcome', 'Lost', 'worker', t.worker,
        'startedAt', null, 'endedAt', ${epochMillis("v_now")}
      ))
    where t.id = any (v_ids)
    returning t.id
  )
  select coalesce(array_agg(freed.id), '{}') into released from freed;
  return next;
end
$$`
}

/** The statements of this migration, in order. */
export const statements = (schema: string): ReadonlyArray<string> => [
  ...types(schema),
  ...tables(schema),
  ...partitions(schema),
  claim(schema),
  finish(schema),
  retry(schema),
  release(schema),
  promote(schema),
  recover(schema)
]
