/** What ends, postpones or hands back tasks. Whatever is written about a claim names the whole hold: task, fence, worker. */
import { certainPlans, epochMillis, keepEnded, keptOf } from "./common.ts"

/** Both ways to run a statement that moves ended tasks: to their partition, or to the overflow when there is none. */
const moving = (schema: string, statement: (keep: string) => string, then: string) => {
  const { history, overflow } = keepEnded(schema, then)
  return `if ${schema}.horsies_has_partition(v_now) then
    ${statement(history)}
  else
    ${statement(overflow)}
  end if;`
}

/** Ends tasks whose attempts have ended them. A failure of `Cancelled` or `Expired` is that state; none is success. */
const finish = (schema: string) =>
  `create function ${schema}.horsies_finish(
  p_worker uuid, p_ids uuid[], p_fences integer[], p_elapsed float8[], p_failures text[], p_results text[]
) returns setof uuid
language plpgsql${certainPlans}
as $$
declare
  v_now timestamptz := ${schema}.horsies_now();
begin
  -- horsies_tasks_pkey; the hold (task, fence, worker) decides
  ${
    moving(
      schema,
      (keep) =>
        `return query
    with ended as (
      delete from ${schema}.horsies_tasks t
      using unnest(p_ids, p_fences, p_elapsed, p_failures, p_results) as f (id, fence, elapsed, failure, result)
      where t.id = f.id and t.fence = f.fence and t.worker = p_worker
      returning ${keptOf("t")}, t.losses, t.worker,
        -- What never started was no attempt.
        t.attempts + (f.elapsed is not null)::integer as attempts,
        (case
          when f.failure is null then 'COMPLETED'
          when f.failure = 'Cancelled' then 'CANCELLED'
          when f.failure = 'Expired' then 'EXPIRED'
          else 'FAILED'
        end)::${schema}.horsies_task_state as state,
        v_now - f.elapsed * interval '1 millisecond' as started_at, v_now as ended_at,
        f.failure, f.result::json as result
    )
    ${keep}`,
      "returning id"
    )
  }
end
$$`

/** Ends tasks, held or not, that the caller has locked. FAILED they are because they lost too many workers, `p_losses` just now. */
const end = (schema: string) =>
  `create function ${schema}.horsies_end(p_ids uuid[], p_state text, p_losses integer) returns void
language plpgsql${certainPlans}
as $$
declare
  v_now timestamptz := ${schema}.horsies_now();
begin
  if cardinality(p_ids) = 0 then
    return;
  end if;
  -- horsies_tasks_pkey
  ${
    moving(
      schema,
      (keep) =>
        `with ended as (
      delete from ${schema}.horsies_tasks t
      where t.id = any (p_ids)
      returning ${keptOf("t")}, (t.losses + p_losses)::smallint as losses, t.worker, t.attempts,
        p_state::${schema}.horsies_task_state as state, null::timestamptz as started_at, v_now as ended_at,
        case p_state when 'FAILED' then 'Lost' when 'CANCELLED' then 'Cancelled' when 'EXPIRED' then 'Expired' end
          as failure,
        case p_state
          when 'FAILED' then to_json('lost ' || (t.losses + p_losses) || ' workers while they held the task')
        end as result
    )
    ${keep}`,
      ""
    )
  }
end
$$`

/**
 * Lets claimed tasks wait again: after a failed attempt, a snooze or an interruption. Without an outcome nothing is
 * recorded of it; without a delay a task keeps its due time. What is to be cancelled ends instead, still with its worker.
 */
const retry = (schema: string) => {
  const attempt = (error = "") =>
    `json_build_object(
          'attempt', t.attempts + 1, 'outcome', f.outcome, 'worker', p_worker,
          'startedAt', ${epochMillis("v_now - f.elapsed * interval '1 millisecond'")},
          'endedAt', ${epochMillis("v_now")}${error}
        )`
  return `create function ${schema}.horsies_retry(
  p_worker uuid, p_ids uuid[], p_fences integer[], p_elapsed float8[], p_outcomes text[], p_errors text[],
  p_delays float8[], p_counts boolean[]
) returns table (id uuid, queue text, priority smallint, cancelled boolean, failed boolean)
language plpgsql${certainPlans}
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_cancelled uuid[] := '{}';
  v_failed uuid[];
begin
  -- horsies_tasks_pkey; the hold (task, fence, worker) decides
  if 'Lost' = any (p_outcomes) then
    v_failed := array(
      select t.id
      from unnest(p_ids, p_fences, p_outcomes) as f (id, fence, outcome)
      join ${schema}.horsies_tasks t on t.id = f.id and t.fence = f.fence and t.worker = p_worker
      where f.outcome = 'Lost' and t.losses + 1 >= t.max_losses and not t.cancelling
      for update of t
    );
    return query
    select t.id, t.queue::text, t.priority, false, true from ${schema}.horsies_tasks t where t.id = any (v_failed);
    perform ${schema}.horsies_end(v_failed, 'FAILED', 1);
  end if;
  for id, queue, priority, cancelled, failed in
    update ${schema}.horsies_tasks t
    set state = case when t.cancelling then t.state else 'PENDING' end, worker = case when t.cancelling then t.worker end,
      counted = false, attempts = t.attempts + f.counts::integer,
      losses = t.losses + (f.outcome is not distinct from 'Lost')::integer,
      due = coalesce(f.delay, 0) <= 0,
      run_at = coalesce(v_now + f.delay * interval '1 millisecond', t.run_at),
      -- A task that is tried for ever must not grow for ever.
      past = case when f.outcome is null then t.past else array_append(
        t.past[greatest(1, cardinality(t.past) - 98):],
        case when f.error is null then ${attempt()} else ${attempt(", 'error', f.error::json")} end
      ) end
    from unnest(p_ids, p_fences, p_elapsed, p_outcomes, p_errors, p_delays, p_counts)
      as f (id, fence, elapsed, outcome, error, delay, counts)
    where t.id = f.id and t.fence = f.fence and t.worker = p_worker
    returning t.id, t.queue, t.priority, t.cancelling, false
  loop
    if cancelled then
      v_cancelled := v_cancelled || id;
    end if;
    return next;
  end loop;
  perform ${schema}.horsies_end(v_cancelled, 'CANCELLED', 0);
end
$$`
}

/** Hands claims back that have not started. What is to be cancelled ends instead. */
const release = (schema: string) =>
  `create function ${schema}.horsies_release(p_worker uuid, p_ids uuid[], p_fences integer[])
returns table (id uuid, queue text, priority smallint, cancelled boolean)
language sql
as $$
  select r.id, r.queue, r.priority, r.cancelled
  from ${schema}.horsies_retry(
    p_worker, p_ids, p_fences, null, null, null, null, array_fill(false, array[cardinality(p_ids)])
  ) r
$$`

/** Makes due tasks ready and ends those that it is too late for; how long until the next of either. */
const promote = (schema: string) =>
  `create function ${schema}.horsies_promote(p_queues text[], p_limit integer)
returns table (next float8, expired uuid[])
language plpgsql${certainPlans}
as $$
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_promoted integer;
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
  -- horsies_tasks_expiring
  expired := array(
    select d.id
    from unnest(p_queues) q
    cross join lateral (
      select t.id from ${schema}.horsies_tasks t
      where t.queue = q and t.state = 'PENDING' and t.good_until is not null and t.good_until <= v_now
      order by t.good_until
      limit p_limit
      for update skip locked
    ) d
  );
  perform ${schema}.horsies_end(expired, 'EXPIRED', 0);
  if greatest(v_promoted, cardinality(expired)) >= p_limit then
    next := 0;
    return next;
    return;
  end if;
  -- horsies_tasks_delayed, horsies_tasks_expiring. What is due and still waits is locked by somebody. Mostly he promotes it, and
  -- his commit is a moment away; but it may be any transaction: each wait is as long as it has been due already.
  select min(${epochMillis("d.at")} - ${epochMillis("v_now")}) into next
  from unnest(p_queues) q
  cross join lateral (
    (
      select t.run_at as at from ${schema}.horsies_tasks t
      where t.queue = q and t.state = 'PENDING' and not t.due and t.run_at > v_now
      order by t.run_at
      limit 1
    )
    union all
    (
      select v_now + least(v_now - t.run_at, interval '1 second') from ${schema}.horsies_tasks t
      where t.queue = q and t.state = 'PENDING' and not t.due and t.run_at <= v_now
      order by t.run_at desc
      limit 1
    )
    union all
    (
      select t.good_until from ${schema}.horsies_tasks t
      where t.queue = q and t.state = 'PENDING' and t.good_until is not null and t.good_until > v_now
      order by t.good_until
      limit 1
    )
    union all
    (
      select v_now + least(v_now - t.good_until, interval '1 second') from ${schema}.horsies_tasks t
      where t.queue = q and t.state = 'PENDING' and t.good_until is not null and t.good_until <= v_now
      order by t.good_until desc
      limit 1
    )
  ) d;
  next := case when next is not null then greatest(next, 2) end;
  return next;
end
$$`

/**
 * Recovery, the second step: tasks held by workers that are dead or unknown. A claim that was in flight when its worker
 * was declared dead may land late, so this looks at who holds tasks, not at who has just died.
 */
const recover = (schema: string) =>
  `create function ${schema}.horsies_recover(p_limit integer)
returns table (released uuid[], failed uuid[], cancelled uuid[])
language plpgsql${certainPlans}
as $$
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_gone uuid[];
  v_ids uuid[];
begin
  -- A claim that was under way when its queue was given limits does not count yet. horsies_tasks_claimed
  if exists (select from ${schema}.horsies_queues q where q.limited) then
    update ${schema}.horsies_tasks t set counted = true
    where t.id = any (array(
      select c.id from ${schema}.horsies_tasks c join ${schema}.horsies_queues q on q.queue = c.queue
      where c.state = 'CLAIMED' and not c.counted and q.limited
      for no key update of c skip locked
    ));
  end if;
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
    select t.id from ${schema}.horsies_tasks t
    where t.id = any (v_ids) and t.losses + 1 >= t.max_losses and not t.cancelling
  );
  cancelled := array(select t.id from ${schema}.horsies_tasks t where t.id = any (v_ids) and t.cancelling);
  perform ${schema}.horsies_end(failed, 'FAILED', 1);
  with freed as (
    update ${schema}.horsies_tasks t
    set state = case when t.cancelling then t.state else 'PENDING' end, worker = case when t.cancelling then t.worker end,
      counted = false, losses = t.losses + 1,
      past = array_append(t.past, json_build_object(
        'attempt', t.attempts + 1, 'outcome', 'Lost', 'worker', t.worker,
        'startedAt', null, 'endedAt', ${epochMillis("v_now")}
      ))
    where t.id = any (v_ids)
    returning t.id
  )
  select coalesce(array_agg(freed.id), '{}') into released from freed where freed.id <> all (cancelled);
  perform ${schema}.horsies_end(cancelled, 'CANCELLED', 0);
  return next;
end
$$`

export const finishing = (schema: string) => [
  finish(schema),
  end(schema),
  retry(schema),
  release(schema),
  promote(schema),
  recover(schema)
]
