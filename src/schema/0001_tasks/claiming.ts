/**
 * Claims. A lane is a range of the ready index: one queue, one name, one version of its payload, one concurrency key.
 * Only lanes that may run now are walked, so nothing that must not run lies in the way of what may.
 */
import { certainPlans, epochMillis } from "./common.ts"

const claimedColumns = `id uuid, fence integer, name text, queue text, payload text, priority smallint,
  attempt integer, losses smallint, due_at float8, waited float8,
  version smallint, concurrency_key text, timeout float8, expires_in float8`

/** None for one that no client could read: it was put there by other hands. Up to 60,000 bytes, however compressed, are not. */
const payload =
  `case when pg_column_size(t.payload) <= 60000 or octet_length(t.payload::text) <= 8000000 then t.payload::text end`

const claimedOf = `t.id, t.fence, t.name::text, t.queue::text, ${payload}, t.priority, t.attempts + 1, t.losses,
    ${epochMillis("t.run_at")}, ${epochMillis("v_now")} - ${epochMillis("t.run_at")},
    t.version, t.concurrency_key::text, t.timeout, ${epochMillis("t.good_until")} - ${epochMillis("v_now")}`

/** A row that says something about a queue instead of being a task: what, and a number or a key. */
const remark = (what: string, queue: string, key: string, number: string) =>
  `return query select null::uuid, null::integer, '${what}'::text, ${queue}::text, ${key}::text, null::smallint,
      null::integer, null::smallint, ${number}::float8, null::float8, null::smallint, null::text, null::float8,
      null::float8;`

const isAlive = (schema: string) =>
  `exists (select from ${schema}.horsies_heartbeats b where b.worker = p_worker and b.died_at is null)`

/** What is over is ended by the next promotion; until then nobody may start it. */
const inTime = "(t.good_until is null or t.good_until > v_now)"

/** The tasks of one lane that are ready, in their order. */
const ready = (lane: { readonly queue: string; readonly name: string; readonly version: string }) =>
  `t.queue = ${lane.queue} and t.name = ${lane.name} and t.version = ${lane.version}
          and t.state = 'PENDING' and t.due and t.losses = 0 and ${inTime}`

const order = "order by t.priority, t.run_at, t.id"

/**
 * The lanes with ready tasks, one step of the index for each, in the order in which the keys take turns: from the key
 * after `p_after` on, and around. Tasks without a key have the key ''.
 */
const lanes = (schema: string) => {
  const next = (after: string, columns = "t.concurrency_key") =>
    `select ${columns} from ${schema}.horsies_tasks t
          where ${
      ready({ queue: "p_queue", name: "p_names[l]", version: "p_versions[l]" })
    } and t.concurrency_key ${after}
          order by t.concurrency_key limit 1`
  return `create function ${schema}.horsies_lanes(
  p_queue text, p_names text[], p_versions integer[], p_after text, p_limit integer
) returns table (lane integer, concurrency_key text)
language plpgsql${certainPlans}
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
begin
  -- horsies_tasks_ready
  return query
  select found.lane, found.concurrency_key
  from generate_subscripts(p_names, 1) l
  cross join lateral (
    with recursive forward (concurrency_key, n) as (
      (${next("> p_after", "t.concurrency_key, 1")})
      union all
      select (${next("> f.concurrency_key")}), f.n + 1
      from forward f where f.concurrency_key is not null and f.n < p_limit
    ), around (concurrency_key, n) as (
      select first.concurrency_key, 1
      from (${next(">= ''")}) first
      where (select count(f.concurrency_key) from forward f) < p_limit
      union all
      select (${next("> a.concurrency_key")}), a.n + 1
      from around a where a.concurrency_key < p_after and a.n < p_limit
    )
    select l as lane, f.concurrency_key, false as wrapped from forward f where f.concurrency_key is not null
    union all
    select l, a.concurrency_key, true from around a where a.concurrency_key <= p_after
  ) found
  order by found.wrapped, found.concurrency_key, found.lane
  limit p_limit;
end
$$`
}

/**
 * Claims from queues without limits. \`p_slots\` tasks of a queue may start at once, \`p_ahead\` more may be held ready.
 * Without concurrency keys, a lane goes from a (priority, due time) up to a priority. The lanes of a queue with a single
 * name come in the order of their priorities and are simply walked; with several names, a look at the heads of all lanes
 * first tells how many tasks of each belong to the most urgent ones. With keys, the keys take turns.
 */
const claim = (schema: string) => {
  const lane = (i: string) =>
    ready({ queue: "p_queues[q]", name: `p_lane_names[${i}]`, version: `p_lane_versions[${i}]` })
  const range = (i: string) =>
    `${lane(i)} and t.concurrency_key = ''
          and (t.priority, t.run_at) >= (
            p_lane_from[${i}]::smallint, coalesce(to_timestamp(p_lane_from_at[${i}] / 1000), '-infinity')
          )
          and t.priority <= p_lane_to[${i}]::smallint`
  const take = (ids: string) =>
    `-- horsies_tasks_pkey
    return query
    update ${schema}.horsies_tasks t
    set state = 'CLAIMED', fence = t.fence + 1, worker = p_worker
    where t.id = any (${ids})
    returning ${claimedOf};`
  return `create function ${schema}.horsies_claim(
  p_worker uuid,
  p_queues text[], p_slots integer[], p_ahead integer[], p_after text[],
  p_lane_queues integer[], p_lane_names text[], p_lane_versions integer[],
  p_lane_from integer[], p_lane_from_at float8[], p_lane_to integer[]
) returns table (${claimedColumns})
language plpgsql${certainPlans}
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_ids uuid[] := '{}';
  v_taken uuid[];
  v_lanes integer[];
  v_names text[];
  v_versions integer[];
  v_settings record;
  v_turns integer[];
  v_keys text[];
  v_counts integer[];
  v_rest integer;
  v_limit integer;
  v_lane integer;
  v_short boolean;
  v_after text;
begin
  if not ${isAlive(schema)} then
    return;
  end if;

  for q in 1..cardinality(p_queues) loop
    -- horsies_queues_pkey
    select s.paused, s.limited into v_settings from ${schema}.horsies_queues s where s.queue = p_queues[q];
    if v_settings.limited then
      ${remark("limited", "p_queues[q]", "null", "null")}
      continue;
    end if;
    continue when v_settings.paused;

    v_lanes := array(select l from generate_subscripts(p_lane_queues, 1) l where p_lane_queues[l] = q order by l);
    select array_agg(d.name), array_agg(d.version) into v_names, v_versions
    from (select distinct p_lane_names[l] as name, p_lane_versions[l] as version from unnest(v_lanes) l) d;

    -- horsies_tasks_suspect
    v_taken := array(
      select picked.id
      from generate_subscripts(v_names, 1) l
      cross join lateral (
        select t.id from ${schema}.horsies_tasks t
        where t.queue = p_queues[q] and t.name = v_names[l] and t.version = v_versions[l]
          and t.state = 'PENDING' and t.due and t.losses > 0 and ${inTime}
        ${order}
        limit greatest(p_slots[q], least(p_ahead[q], 1))
        for no key update skip locked
      ) picked
      -- One even when no slot is free: under a steady load none ever would be.
      limit greatest(p_slots[q], least(p_ahead[q], 1))
    );
    v_ids := v_ids || v_taken;
    v_rest := p_slots[q] + p_ahead[q] - cardinality(v_taken);
    continue when v_rest <= 0;

    -- horsies_tasks_ready
    if exists (
      select from generate_subscripts(v_names, 1) l
      cross join lateral (
        select from ${schema}.horsies_tasks t
        where ${ready({ queue: "p_queues[q]", name: "v_names[l]", version: "v_versions[l]" })}
          and t.concurrency_key > ''
        limit 1
      ) keyed
    ) then
      -- Another round for what keys with few tasks have left of their shares.
      v_after := p_after[q];
      for v_round in 1..4 loop
        select array_agg(k.lane), array_agg(k.concurrency_key) into v_turns, v_keys
        from ${schema}.horsies_lanes(p_queues[q], v_names, v_versions, v_after, least(v_rest, 200)) k;
        v_lane := coalesce(cardinality(v_turns), 0);
        exit when v_lane = 0;
        -- horsies_tasks_ready; shares that add up to what is asked for, so no more rows are locked than that
        v_taken := array(
          select picked.id
          from generate_subscripts(v_turns, 1) i
          cross join lateral (
            select t.id from ${schema}.horsies_tasks t
            where ${ready({ queue: "p_queues[q]", name: "v_names[v_turns[i]]", version: "v_versions[v_turns[i]]" })}
              and t.concurrency_key = v_keys[i]
            ${order}
            limit v_rest / v_lane + (i <= v_rest % v_lane)::integer
            for no key update skip locked
          ) picked
        );
        -- It goes on after the last one whose share was larger.
        v_after := v_keys[case when v_rest % v_lane > 0 then v_rest % v_lane else v_lane end];
        v_limit := v_rest;
        v_rest := v_rest - cardinality(v_taken);
        exit when cardinality(v_taken) = 0;
        ${take("v_taken")}
        exit when v_rest <= 0;
      end loop;
      ${remark("turn", "p_queues[q]", "v_after", "null")}
      if v_rest > 0 and v_lane > 0 then
        -- There is more, or others are claiming these very keys: a moment later they are through.
        ${remark("again", "p_queues[q]", "null", "case when v_rest < v_limit then 0 else 10 end")}
      end if;
      continue;
    end if;

    if cardinality(v_names) > 1 then
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
              where ${range("l")}
              ${order}
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

    v_short := false;
    for i in 1..cardinality(v_lanes) loop
      v_limit := case when cardinality(v_names) = 1 then v_rest else least(v_rest, v_counts[i]) end;
      continue when v_limit <= 0;
      v_lane := v_lanes[i];
      -- horsies_tasks_ready; the limit stands above the lock, so no more rows are locked than asked for
      v_taken := array(
        select t.id from ${schema}.horsies_tasks t
        where ${range("v_lane")}
        ${order}
        limit v_limit
        for no key update skip locked
      );
      v_ids := v_ids || v_taken;
      v_rest := v_rest - cardinality(v_taken);
      v_short := v_short or cardinality(v_taken) < v_limit and cardinality(v_names) > 1;
      exit when v_rest <= 0;
    end loop;
    if v_short then
      -- Others are claiming what was counted here, and behind it there may be more.
      ${remark("again", "p_queues[q]", "null", "10")}
    end if;
  end loop;

  if cardinality(v_ids) > 0 then
    ${take("v_ids")}
  end if;
end
$$`
}

/** Tokens in a bucket now. One that was never used is full; one that was written a moment later by another is as it is. */
const tokensIn = (schema: string, key: string, rate: string, per: string, burst: string) =>
  `coalesce((
      select least(${burst}, b.tokens + greatest(0, ${epochMillis("v_now")} - ${
    epochMillis("b.at")
  }) * ${rate} / ${per})
      from ${schema}.horsies_buckets b where b.queue = p_queue and b.concurrency_key = ${key}
    ), ${burst})`

const takeTokens = (schema: string, key: string, tokens: string) =>
  `insert into ${schema}.horsies_buckets as b (queue, concurrency_key, tokens, at)
    values (p_queue, ${key}, ${tokens}, v_now)
    on conflict (queue, concurrency_key) do update set tokens = excluded.tokens, at = greatest(b.at, excluded.at);`

/**
 * Claims from one queue with limits. Such claims wait for each other: each first locks the row of the queue, and counts
 * in later statements, which see what the ones before it have committed. Keys take turns, and a key at its limit is
 * passed over.
 */
const claimLimited = (schema: string) =>
  `create function ${schema}.horsies_claim_limited(
  p_worker uuid, p_queue text, p_slots integer, p_after text, p_names text[], p_versions integer[]
) returns table (${claimedColumns})
language plpgsql${certainPlans}
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_settings ${schema}.horsies_queues;
  v_ids uuid[] := '{}';
  v_taken uuid[];
  v_rest integer := p_slots;
  v_tokens float8;
  v_key_tokens float8;
  v_again float8;
  v_turns integer[];
  v_keys text[];
  v_suspects uuid[];
  v_share integer;
  v_limit integer;
  v_visited integer := 0;
  v_before integer;
  v_after text := p_after;
begin
  if not ${isAlive(schema)} then
    return;
  end if;
  -- Without the lock first: where everything is taken, whoever gives something back wakes this worker again after its
  -- commit, and a lock, and the commit that it needs, would only keep others waiting. horsies_tasks_counted
  select * into v_settings from ${schema}.horsies_queues s where s.queue = p_queue;
  if v_settings.concurrency <= (
    select count(*) from ${schema}.horsies_tasks t where t.queue = p_queue and t.state = 'CLAIMED' and t.counted
  ) then
    return;
  end if;
  select * into v_settings from ${schema}.horsies_queues s where s.queue = p_queue for update;
  if v_settings.limited is not true then
    ${remark("unlimited", "p_queue", "null", "null")}
    return;
  end if;
  if v_settings.paused then
    return;
  end if;

  if v_settings.concurrency is not null then
    -- horsies_tasks_counted
    v_rest := least(v_rest, v_settings.concurrency - (
      select count(*) from ${schema}.horsies_tasks t where t.queue = p_queue and t.state = 'CLAIMED' and t.counted
    )::integer);
  end if;
  if v_settings.rate is not null then
    v_tokens := ${tokensIn(schema, "''", "v_settings.rate", "v_settings.rate_per", "v_settings.burst")};
    if v_tokens < 1 then
      v_again := (1 - v_tokens) * v_settings.rate_per / v_settings.rate;
    end if;
    v_rest := least(v_rest, floor(v_tokens)::integer);
  end if;

  loop
    exit when v_rest <= 0 or v_visited >= 500;
    v_before := v_rest;
    select coalesce(array_agg(x.lane), '{}'), array_agg(x.concurrency_key), array_agg(x.suspect)
    into v_turns, v_keys, v_suspects
    from (
      -- horsies_tasks_suspect: on the first round, before all others
      (
        select l as lane, s.concurrency_key, s.id as suspect
        from generate_subscripts(p_names, 1) l
        cross join lateral (
          select t.concurrency_key, t.id from ${schema}.horsies_tasks t
          where t.queue = p_queue and t.name = p_names[l] and t.version = p_versions[l]
            and t.state = 'PENDING' and t.due and t.losses > 0 and ${inTime}
          ${order}
          limit 100
        ) s
        where v_visited = 0
      )
      union all
      select k.lane, k.concurrency_key, null
      from ${schema}.horsies_lanes(p_queue, p_names, p_versions, v_after, 200) k
    ) x;
    v_share := greatest(1, v_rest / greatest(1, cardinality(v_turns)));
    for i in 1..cardinality(v_turns) loop
      exit when v_rest <= 0;
      v_visited := v_visited + 1;
      v_limit := case when v_suspects[i] is null then least(v_share, v_rest) else 1 end;
      if v_suspects[i] is null then
        v_after := v_keys[i];
      end if;
      if v_keys[i] > '' then
        if v_settings.key_concurrency is not null then
          -- horsies_tasks_counted
          v_limit := least(v_limit, v_settings.key_concurrency - (
            select count(*) from ${schema}.horsies_tasks t
            where t.queue = p_queue and t.concurrency_key = v_keys[i] and t.state = 'CLAIMED' and t.counted
          ));
        end if;
        if v_settings.key_rate is not null then
          v_key_tokens :=
            ${tokensIn(schema, "v_keys[i]", "v_settings.key_rate", "v_settings.key_rate_per", "v_settings.key_burst")};
          if v_key_tokens < 1 then
            v_again := least(v_again, (1 - v_key_tokens) * v_settings.key_rate_per / v_settings.key_rate);
          end if;
          v_limit := least(v_limit, floor(v_key_tokens));
        end if;
        continue when v_limit <= 0;
      end if;
      v_taken := case when v_suspects[i] is not null then array(
        select t.id from ${schema}.horsies_tasks t
        where t.id = v_suspects[i] and t.state = 'PENDING'
        for no key update skip locked
      ) else array(
        -- horsies_tasks_ready
        select t.id from ${schema}.horsies_tasks t
        where ${ready({ queue: "p_queue", name: "p_names[v_turns[i]]", version: "p_versions[v_turns[i]]" })}
          and t.concurrency_key = v_keys[i]
        ${order}
        limit v_limit
        for no key update skip locked
      ) end;
      continue when cardinality(v_taken) = 0;
      -- At once, so that the next look at this key counts them and does not meet them again. horsies_tasks_pkey
      update ${schema}.horsies_tasks t
      set state = 'CLAIMED', fence = t.fence + 1, worker = p_worker, counted = true
      where t.id = any (v_taken);
      v_ids := v_ids || v_taken;
      v_rest := v_rest - cardinality(v_taken);
      v_tokens := v_tokens - cardinality(v_taken);
      if v_keys[i] > '' and v_settings.key_rate is not null then
        ${takeTokens(schema, "v_keys[i]", "v_key_tokens - cardinality(v_taken)")}
      end if;
    end loop;
    -- All the way around, and nothing.
    exit when v_rest = v_before and cardinality(v_turns) < 200;
  end loop;

  if cardinality(v_ids) > 0 and v_settings.rate is not null then
    ${takeTokens(schema, "''", "v_tokens")}
    if v_tokens < 1 then
      v_again := least(v_again, (1 - v_tokens) * v_settings.rate_per / v_settings.rate);
    end if;
  end if;
  ${remark("turn", "p_queue", "v_after", "null")}
  if cardinality(v_ids) = p_slots then
    v_again := 0;
  elsif v_rest > 0 and v_visited >= 500 then
    -- There are keys that this claim has not come to.
    v_again := case when cardinality(v_ids) > 0 then 0 else 50 end;
  end if;
  if v_again is not null then
    ${remark("again", "p_queue", "null", "v_again")}
  end if;
  -- horsies_tasks_pkey
  return query
  select ${claimedOf}
  from ${schema}.horsies_tasks t
  where t.id = any (v_ids);
end
$$`

export const claiming = (schema: string) => [lanes(schema), claim(schema), claimLimited(schema)]
