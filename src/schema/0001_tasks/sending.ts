/** Sends that need more than an INSERT, and the send of those who have no process of ours. */

/**
 * The time-ordered ids of RFC 9562, version 7: milliseconds since the epoch, then chance. PostgreSQL has a function of
 * its own from 18 on.
 */
const uuid = (schema: string) =>
  `create function ${schema}.horsies_uuid() returns uuid
language sql volatile
as $$
  select encode(
    set_bit(set_bit(
      overlay(
        uuid_send(gen_random_uuid())
        placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
        from 1 for 6
      ), 52, 1), 53, 1),
    'hex'
  )::uuid
$$`

/**
 * Stores tasks of which some may have been stored before: under the same id (`p_repeated`), or under the same
 * idempotency key. Gives for each, in their order, the id that is stored and whether it is a duplicate.
 *
 * Statement by statement: each sees what others have committed while the one before it waited for them.
 */
const store = (schema: string) => {
  const ended = (columns: string, id: string) =>
    `select ${columns} from ${schema}.horsies_history h
        where h.id = ${id} and h.ended_at >= to_timestamp(${schema}.horsies_earliest(${id}) / 1000)
        union all
        select ${columns} from ${schema}.horsies_history_overflow h where h.id = ${id}`
  return `create function ${schema}.horsies_store(
  p_ids uuid[], p_queues text[], p_names text[], p_priorities integer[], p_after float8[], p_at float8[],
  p_max_losses integer[], p_payloads text[], p_versions integer[], p_good_after float8[], p_good_at float8[],
  p_timeouts float8[], p_retentions float8[], p_keys text[], p_tags text[],
  p_repeated boolean[], p_idempotency_keys text[], p_windows float8[]
) returns table (id uuid, duplicate boolean, queue text, priority integer, due_in float8)
language plpgsql
  set enable_seqscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_ids uuid[];
  -- The ids that were stored before, and those that are now, as keys: looking one up costs a few comparisons, however
  -- many there are.
  v_known jsonb := '{}';
  v_stored jsonb;
  v_other uuid;
begin
  if true = any (p_repeated) then
    -- A task that is there answers for itself, whatever its key stands for by now. horsies_tasks_pkey, horsies_history_id
    select coalesce(jsonb_object_agg(n.id, null), '{}') into v_known
    from unnest(p_ids, p_repeated) as n (id, repeated)
    where n.repeated
      and (exists (select from ${schema}.horsies_tasks t where t.id = n.id) or exists (${ended("", "n.id")}));
  end if;

  -- Sorted, so that two of these wait for each other in the same order. horsies_idempotency_keys_pkey
  insert into ${schema}.horsies_idempotency_keys as k (name, key, task, expires_at)
  select distinct on (n.name, n.key) n.name, n.key, n.id, v_now + n.open * interval '1 millisecond'
  from unnest(p_ids, p_names, p_idempotency_keys, p_windows) with ordinality as n (id, name, key, open, position)
  where n.key is not null and not v_known ? n.id::text
  order by n.name, n.key, n.position
  on conflict (name, key) do update set task = excluded.task, expires_at = excluded.expires_at
  where k.expires_at <= v_now;

  v_ids := array(
    select case when v_known ? n.id::text then n.id else coalesce(k.task, n.id) end
    from unnest(p_ids, p_names, p_idempotency_keys) with ordinality as n (id, name, key, position)
    left join ${schema}.horsies_idempotency_keys k on k.name = n.name and k.key = n.key
    order by n.position
  );

  with stored as (
    insert into ${schema}.horsies_tasks as t (
      id, queue, name, due, priority, run_at, sent_at, max_losses, payload, version, good_until, timeout, retention,
      concurrency_key, tags
    )
    select n.id, n.queue, n.name, due.run_at <= v_now, n.priority, due.run_at, v_now, n.max_losses, n.payload::json,
      n.version,
      coalesce(v_now + n.good_after * interval '1 millisecond', to_timestamp(n.good_at / 1000)),
      n.timeout, n.retention, coalesce(n.concurrency_key, ''), n.tags::jsonb
    from unnest(
      p_ids, p_queues, p_names, p_priorities, p_after, p_at, p_max_losses, p_payloads, p_versions, p_good_after,
      p_good_at, p_timeouts, p_retentions, p_keys, p_tags, v_ids
    ) with ordinality as n (
      id, queue, name, priority, after, at, max_losses, payload, version, good_after, good_at, timeout, retention,
      concurrency_key, tags, kept, position
    )
    cross join lateral (
      select case
        when n.at is null then v_now + n.after * interval '1 millisecond'
        else to_timestamp(n.at / 1000)
      end as run_at
    ) due
    where n.id = n.kept
    order by n.position
    on conflict (id) do nothing
    returning t.id
  )
  select coalesce(jsonb_object_agg(stored.id, null), '{}') into v_stored from stored;

  for v_other in
    select n.id
    from unnest(p_ids, v_ids, p_repeated) as n (id, kept, repeated)
    where not n.repeated and not v_stored ? n.id::text
      -- Whatever its key stands for by now. horsies_tasks_pkey
      and (n.id = n.kept or exists (select from ${schema}.horsies_tasks t where t.id = n.id))
    limit 1
  loop
    raise exception 'there is already a task %', v_other using errcode = '23505';
  end loop;

  if true = any (p_repeated) then
    -- One that was sent before may have ended meanwhile: then what was just stored is one too many. What has another
    -- name or payload is another task. horsies_tasks_pkey, horsies_history_id
    for v_other in
      select n.id
      from unnest(p_ids, v_ids, p_names, p_payloads, p_repeated) as n (id, kept, name, payload, repeated)
      cross join lateral (
        select t.name, t.payload from ${schema}.horsies_tasks t where t.id = n.id
        union all
        ${ended("h.name, h.payload", "n.id")}
      ) stored
      where n.repeated and n.id = n.kept and (stored.name <> n.name or stored.payload::text <> n.payload)
      limit 1
    loop
      raise exception 'there is another task with the id %', v_other using errcode = 'HO001';
    end loop;
    with gone as (
      delete from ${schema}.horsies_tasks t
      where t.id = any (array(
        select n.id
        from unnest(p_ids, p_repeated) as n (id, repeated)
        where n.repeated and v_stored ? n.id::text and exists (${ended("", "n.id")})
      ))
      returning t.id
    )
    select v_stored - array(select gone.id::text from gone) into v_stored;
  end if;

  return query
  select n.kept, not (n.id = n.kept and v_stored ? n.id::text and n.nth = 1), n.queue, n.priority,
    case when n.id = n.kept and v_stored ? n.id::text
      then coalesce(n.after, n.at - extract(epoch from v_now)::float8 * 1000)
    end
  from (
    select u.*, row_number() over (partition by u.kept order by u.position) as nth
    from unnest(p_ids, v_ids, p_queues, p_priorities, p_after, p_at) with ordinality
      as u (id, kept, queue, priority, after, at, position)
  ) n
  order by n.position;
end
$$`
}

/** The time in a UUIDv7, in milliseconds since the epoch, less a day for senders whose clock is ahead. */
const earliest = (schema: string) =>
  `create function ${schema}.horsies_earliest(p_id uuid) returns float8
language sql immutable
as $$
  select greatest(
    0, ('x' || lpad(translate(left(p_id::text, 13), '-', ''), 16, '0'))::bit(64)::bigint - 86400000
  )::float8
$$`

/**
 * Sends a task from psql, a trigger or any language. What is not given comes from the definition that workers have made
 * known. It has no process of ours behind it, so it notifies inside its transaction.
 */
const send = (schema: string, channel: string) =>
  `create function ${schema}.horsies_send(
  name text,
  payload json default 'null',
  queue text default null,
  priority integer default null,
  delay interval default null,
  run_at timestamptz default null,
  good_until timestamptz default null,
  timeout interval default null,
  concurrency_key text default null,
  idempotency_key text default null,
  idempotency_window interval default null,
  tags jsonb default null,
  version integer default null,
  id uuid default null
) returns uuid
language plpgsql
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_definition ${schema}.horsies_definitions;
  v_queue text;
  v_priority integer;
  v_id uuid := coalesce(horsies_send.id, ${schema}.horsies_uuid());
  r record;
begin
  if horsies_send.delay is not null and horsies_send.run_at is not null then
    raise exception 'horsies_send: give delay or run_at, not both' using errcode = '22023';
  end if;
  if substr(v_id::text, 15, 1) <> '7' then
    raise exception 'horsies_send: id is %; write a UUIDv7, whose time says where to look for the task', v_id
      using errcode = '22023';
  end if;
  select * into v_definition from ${schema}.horsies_definitions d where d.name = horsies_send.name;
  v_queue := coalesce(horsies_send.queue, v_definition.queue);
  if v_queue is null then
    raise exception 'horsies_send: no worker has made a task named % known; give its queue', horsies_send.name
      using errcode = '22023';
  end if;
  v_priority := coalesce(horsies_send.priority, v_definition.priority, 100);
  if v_priority not between 1 and 100 then
    raise exception 'horsies_send: priority is %; write a number from 1 to 100', v_priority using errcode = '22023';
  end if;
  select s.* into r
  from ${schema}.horsies_store(
    array[v_id], array[v_queue], array[horsies_send.name], array[v_priority],
    array[case when horsies_send.run_at is null
      then extract(epoch from coalesce(horsies_send.delay, '0'))::float8 * 1000 end],
    array[extract(epoch from horsies_send.run_at)::float8 * 1000],
    array[coalesce(v_definition.max_losses, 3)::integer],
    array[horsies_send.payload::text],
    array[coalesce(horsies_send.version, v_definition.version, 1)],
    array[null::float8],
    array[extract(epoch from horsies_send.good_until)::float8 * 1000],
    array[coalesce(extract(epoch from horsies_send.timeout)::float8 * 1000, v_definition.timeout)],
    array[v_definition.retention],
    array[horsies_send.concurrency_key],
    array[horsies_send.tags::text],
    array[horsies_send.id is not null],
    array[horsies_send.idempotency_key],
    array[coalesce(
      extract(epoch from horsies_send.idempotency_window)::float8 * 1000, v_definition.idempotency_window, 86400000
    )]
  ) s;
  if not r.duplicate then
    perform pg_notify('${channel}', json_build_object(
      'from', 'horsies_send',
      'queues', json_build_array(json_build_array(v_queue, v_priority, round(r.due_in)))
    )::text);
  end if;
  return r.id;
end
$$`

export const sending = (schema: string, channel: string) => [
  uuid(schema),
  earliest(schema),
  store(schema),
  send(schema, channel)
]
