/** Claims from queues with limits. */
import { claimedColumns, claimedOf, isAlive, remark } from "./claimed.ts"
import { certainPlans, epochMillis } from "./common.ts"
import { inTime, laneArguments, laneParameters, lanesOf, locked, order, ready, within } from "./lanes.ts"

/** Keys in the order of their turns, and the lanes of each by their most urgent tasks. */
const byTurn = "order by x.turn, x.priority, x.run_at, x.id"

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
 * Claims from one queue with limits. Such claims wait for each other (with `p_nowait` one takes nothing where it
 * would have to): each first locks the row of the queue, and counts in later statements, which see what the ones before it
 * have committed. Keys take turns, and a key at its limit is passed over. A claim that is left with room has seen the end
 * of its ranges, and looks at the whole keys then.
 */
export const claimLimited = (schema: string) => {
  const visited = {
    queue: "p_queue",
    name: "v_names[v_turns[i]]",
    version: "v_versions[v_turns[i]]",
    key: "v_keys[i]",
    limit: "v_limit"
  }
  return `create function ${schema}.horsies_claim_limited(
  p_worker uuid, p_queue text, p_slots integer, p_after text, ${laneParameters}, p_nowait boolean
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
  -- What the limit of the queue leaves, and whether a key is at its own.
  v_places integer;
  v_full boolean := false;
  v_lanes integer[];
  v_names text[];
  v_versions integer[];
  v_turns integer[];
  v_keys text[];
  v_firsts integer[];
  v_lasts integer[];
  v_suspects uuid[];
  -- Keys with ranges that are at their limits, and those whose ranges have come to their end.
  v_kept text[] := '{}';
  v_ended text[];
  v_share integer;
  -- The key whose lanes are being visited, and what they have given.
  v_key text;
  v_given integer := 0;
  v_limit integer;
  v_visited integer := 0;
  v_before integer;
  v_after text := p_after;
begin
  if not ${isAlive(schema)} then
    return;
  end if;
  -- A connection plans what it has not run before. That takes tens of milliseconds, in which others are not to wait for the
  -- lock: so the first claim of each connection is preceded by one of no queue.
  if current_setting('horsies.planned', true) is distinct from 'yes' then
    perform set_config('horsies.planned', 'yes', false);
    perform from ${schema}.horsies_claim_limited(p_worker, null, 1, '', ${laneArguments}, p_nowait);
  end if;
  -- Without the lock first: where everything is taken, whoever gives something back wakes this worker again after its
  -- commit, and a lock, and the commit that it needs, would only keep others waiting. horsies_tasks_counted
  select * into v_settings from ${schema}.horsies_queues s where s.queue = p_queue;
  if v_settings.concurrency <= (
    select count(*) from ${schema}.horsies_tasks t where t.queue = p_queue and t.state = 'CLAIMED' and t.counted
  ) then
    ${remark("full", "p_queue", "null", "null")}
    return;
  end if;
  if p_queue is null then
    null;
  elsif p_nowait then
    select * into v_settings from ${schema}.horsies_queues s where s.queue = p_queue for update skip locked;
    if not found then
      ${remark("again", "p_queue", "null", "0")}
      return;
    end if;
  else
    select * into v_settings from ${schema}.horsies_queues s where s.queue = p_queue for update;
  end if;
  if p_queue is not null and v_settings.limited is not true then
    ${remark("unlimited", "p_queue", "null", "null")}
    return;
  end if;
  if v_settings.paused then
    return;
  end if;

  if v_settings.concurrency is not null then
    -- horsies_tasks_counted
    v_places := v_settings.concurrency - (
      select count(*) from ${schema}.horsies_tasks t where t.queue = p_queue and t.state = 'CLAIMED' and t.counted
    );
    v_rest := least(v_rest, v_places);
  end if;
  if v_settings.rate is not null then
    v_tokens := ${tokensIn(schema, "''", "v_settings.rate", "v_settings.rate_per", "v_settings.burst")};
    if v_tokens < 1 then
      v_again := (1 - v_tokens) * v_settings.rate_per / v_settings.rate;
    end if;
    v_rest := least(v_rest, floor(v_tokens)::integer);
  end if;

  ${lanesOf()}
  into v_lanes, v_names, v_versions
  from generate_subscripts(p_lane_names, 1) l;

  loop
    exit when v_rest <= 0 or v_visited >= 500;
    v_before := v_rest;
    select coalesce(array_agg(x.lane ${byTurn}), '{}'), array_agg(x.concurrency_key ${byTurn}),
      array_agg(x.first ${byTurn}), array_agg(x.last ${byTurn}), array_agg(x.suspect ${byTurn})
    into v_turns, v_keys, v_firsts, v_lasts, v_suspects
    from (
      -- horsies_tasks_suspect: on the first round, before all others
      (
        select l as lane, s.concurrency_key, 0 as first, 0 as last, s.id as suspect, 0::bigint as turn,
          s.priority, s.run_at, s.id
        from generate_subscripts(v_names, 1) l
        cross join lateral (
          select t.concurrency_key, t.id, t.priority, t.run_at from ${schema}.horsies_tasks t
          where t.queue = p_queue and t.name = v_names[l] and t.version = v_versions[l]
            and t.state = 'PENDING' and t.due and t.losses > 0 and ${inTime}
          ${order}
          limit 100
        ) s
        where v_visited = 0
      )
      union all
      -- Of one key, the lane with the most urgent task first. horsies_tasks_ready
      select k.lane, k.concurrency_key, k.first, k.last, null, k.turn, h.priority, h.run_at, h.id
      from (
        select l.*, min(l.n) over of_key as turn, count(*) over of_key as lanes
        from ${schema}.horsies_lanes(
          p_queue, v_names, v_versions, v_lanes, ${laneArguments},
          v_after, 200
        ) with ordinality as l (lane, concurrency_key, first, last, n)
        window of_key as (partition by l.concurrency_key)
      ) k
      left join lateral (
        select t.priority, t.run_at, t.id
        from generate_series(k.first, k.last) r
        cross join lateral (
          select t.priority, t.run_at, t.id from ${schema}.horsies_tasks t
          where ${ready({ queue: "p_queue", name: "v_names[k.lane]", version: "v_versions[k.lane]" })}
            and t.concurrency_key = k.concurrency_key and ${within("r")}
          ${order}
          limit 1
        ) t
        where k.lanes > 1
        limit 1
      ) h on true
    ) x;
    v_share := greatest(1, v_rest / greatest(1, (select count(distinct k)::integer from unnest(v_keys) k)));
    v_key := null;
    for i in 1..cardinality(v_turns) loop
      exit when v_rest <= 0;
      v_visited := v_visited + 1;
      if v_suspects[i] is null then
        -- The lanes of a key lie side by side, and share what it may have now.
        if v_keys[i] is distinct from v_key then
          v_key := v_keys[i];
          v_given := 0;
        end if;
        v_limit := least(v_share - v_given, v_rest);
        continue when v_limit <= 0;
        v_after := v_keys[i];
      else
        v_limit := 1;
      end if;
      if v_keys[i] > '' then
        if v_settings.key_concurrency is not null then
          -- horsies_tasks_counted
          v_limit := least(v_limit, v_settings.key_concurrency - (
            select count(*) from ${schema}.horsies_tasks t
            where t.queue = p_queue and t.concurrency_key = v_keys[i] and t.state = 'CLAIMED' and t.counted
          ));
          v_full := v_full or v_limit <= 0;
        end if;
        if v_settings.key_rate is not null then
          v_key_tokens :=
            ${tokensIn(schema, "v_keys[i]", "v_settings.key_rate", "v_settings.key_rate_per", "v_settings.key_burst")};
          if v_key_tokens < 1 then
            v_again := least(v_again, (1 - v_key_tokens) * v_settings.key_rate_per / v_settings.key_rate);
          end if;
          v_limit := least(v_limit, floor(v_key_tokens));
        end if;
        if v_limit <= 0 and v_firsts[i] > 0 then
          v_kept := v_kept || v_keys[i];
        end if;
        continue when v_limit <= 0;
      end if;
      if v_suspects[i] is not null then
        v_taken := array(
          select t.id from ${schema}.horsies_tasks t
          where t.id = v_suspects[i] and t.state = 'PENDING' and t.due and ${inTime}
          for no key update skip locked
        );
      elsif v_firsts[i] = 0 then
        -- horsies_tasks_ready
        v_taken := array(
          ${locked(schema, visited)}
        );
      else
        -- horsies_tasks_ready
        v_taken := array(
          ${locked(schema, visited, ["v_firsts[i]", "v_lasts[i]"])}
        );
      end if;
      continue when cardinality(v_taken) = 0;
      -- At once, so that the next look at this key counts them and does not meet them again. horsies_tasks_pkey
      update ${schema}.horsies_tasks t
      set state = 'CLAIMED', fence = t.fence + 1, worker = p_worker, counted = true
      where t.id = any (v_taken);
      v_ids := v_ids || v_taken;
      v_rest := v_rest - cardinality(v_taken);
      v_given := v_given + cardinality(v_taken);
      v_tokens := v_tokens - cardinality(v_taken);
      if v_keys[i] > '' and v_settings.key_rate is not null then
        ${takeTokens(schema, "v_keys[i]", "v_key_tokens - cardinality(v_taken)")}
      end if;
    end loop;
    if v_rest = v_before and cardinality(v_turns) < 200 then
      -- All the way around, and nothing: before a range may lie what has come late, unless its key is at a limit.
      v_ended := array(
        select distinct p_lane_keys[l] from unnest(v_lanes) l
        where p_lane_from_at[l] is not null and p_lane_keys[l] <> all (v_kept)
      );
      exit when cardinality(v_ended) = 0;
      ${remark("end", "p_queue", "ended.key", "null", " from unnest(v_ended) ended (key)")}
      v_lanes := array(select l from unnest(v_lanes) l where p_lane_keys[l] = any (v_kept));
    end if;
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
  -- Also when all slots are filled: an end makes room then, too.
  if v_full or v_places <= cardinality(v_ids) then
    ${remark("full", "p_queue", "null", "null")}
  end if;
  -- horsies_tasks_pkey
  return query
  select ${claimedOf}
  from ${schema}.horsies_tasks t
  where t.id = any (v_ids);
end
$$`
}
