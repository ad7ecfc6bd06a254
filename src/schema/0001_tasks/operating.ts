/** What people do to tasks: cancel them, send failed ones again. */
import { keptOf } from "./common.ts"

/**
 * The tasks `t` that fit a filter, as a condition made for each call: only what is given takes part, so that the
 * planner can use the index for it.
 */
const filter = (schema: string) =>
  `create function ${schema}.horsies_filter(
  p_ids uuid[], p_name text, p_queue text, p_key text, p_idempotency_key text, p_tags jsonb
) returns text
language sql stable
as $$
  select concat_ws(' and ', 'true',
    case when p_ids is not null then format('t.id = any (%L::uuid[])', p_ids) end,
    case when p_name is not null then format('t.name = %L', p_name) end,
    case when p_queue is not null then format('t.queue = %L', p_queue) end,
    case when p_key is not null then format('t.concurrency_key = %L', p_key) end,
    case when p_idempotency_key is not null then format(
      't.id = any (%L::uuid[])',
      array(
        select k.task from ${schema}.horsies_idempotency_keys k
        where k.name = p_name and k.key = p_idempotency_key and k.expires_at > ${schema}.horsies_now()
      )
    ) end,
    case when p_tags is not null then format('t.tags is not null and t.tags @> %L::jsonb', p_tags) end
  )
$$`

/**
 * Cancels one batch. A task that is being claimed or finished at this moment is waited for, so that none slips through;
 * what has become of it by then decides.
 */
const cancel = (schema: string) =>
  `create function ${schema}.horsies_cancel(
  p_ids uuid[], p_name text, p_queue text, p_key text, p_idempotency_key text, p_tags jsonb, p_limit integer, p_after uuid
) returns table (cancelled uuid[], requested uuid[], last uuid)
language plpgsql
as $$
begin
  execute format(
    'with found as (
      select t.id, t.state from ${schema}.horsies_tasks t
      where t.id > %L and %s
      order by t.id
      limit %s
      for update
    )
    select array(select id from found where state = ''PENDING''), array(select id from found where state = ''CLAIMED''),
      (select id from found order by id desc limit 1)',
    p_after, ${schema}.horsies_filter(p_ids, p_name, p_queue, p_key, p_idempotency_key, p_tags), p_limit
  ) into cancelled, requested, last;
  perform ${schema}.horsies_end(cancelled, 'CANCELLED', 0);
  update ${schema}.horsies_tasks t set cancelling = true where t.id = any (requested) and not t.cancelling;
  return next;
end
$$`

/** Sends one batch of failed tasks again. */
const resend = (schema: string) =>
  `create function ${schema}.horsies_resend(
  p_ids uuid[], p_name text, p_queue text, p_key text, p_idempotency_key text, p_tags jsonb, p_before timestamptz, p_limit integer
) returns table (origin uuid, id uuid, queue text, priority integer)
language plpgsql
as $$
#variable_conflict use_column
declare
  v_table text;
  v_now timestamptz := ${schema}.horsies_now();
begin
  foreach v_table in array array['horsies_history', 'horsies_history_overflow'] loop
    return query execute format(
      'with found as (
        select t.tableoid, t.ctid, t.id from ${schema}.%1$I t
        where t.state = ''FAILED'' and t.successor is null and t.ended_at <= $2 and %2$s
        order by t.id
        limit %3$s
        for update skip locked
      ), again as (
        update ${schema}.%1$I t set successor = ${schema}.horsies_uuid()
        from found f
        where t.tableoid = f.tableoid and t.ctid = f.ctid
        returning ${keptOf("t")}, t.successor
      ), sent as (
        insert into ${schema}.horsies_tasks (
          id, queue, name, version, concurrency_key, priority, run_at, sent_at, due, timeout, retention, max_losses,
          payload, tags, origin
        )
        select a.successor, a.queue, a.name, a.version, a.concurrency_key, a.priority, $1, $1, true, a.timeout,
          a.retention, a.max_losses, a.payload, a.tags, a.id
        from again a
      )
      select a.id, a.successor, a.queue::text, a.priority::integer from again a',
      v_table, ${schema}.horsies_filter(p_ids, p_name, p_queue, p_key, p_idempotency_key, p_tags), p_limit
    ) using v_now, p_before;
  end loop;
end
$$`

export const operating = (schema: string) => [filter(schema), cancel(schema), resend(schema)]
