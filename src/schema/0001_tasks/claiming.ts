/** Claims from queues without limits. */
import { claimedColumns, claimedOf, isAlive, remark } from "./claimed.ts"
import { certainPlans } from "./common.ts"
import { inTime, laneArguments, laneParameters, lanesOf, locked, order, ready, within } from "./lanes.ts"

/**
 * Claims from queues without limits. `p_slots` tasks of a queue may start at once, `p_ahead` more may be held ready.
 * Without concurrency keys, the lanes of a queue with a single name come in the order of their priorities and are simply
 * walked; with several names, a look at the heads of all lanes first tells how many tasks of each belong to the most
 * urgent ones. With keys, the keys take turns.
 */
export const claim = (schema: string) => {
  const lane = (i: string) =>
    ready({ queue: "p_queues[q]", name: `p_lane_names[${i}]`, version: `p_lane_versions[${i}]` })
  const range = (i: string) =>
    `${lane(i)} and t.concurrency_key = ''
          and ${within(i)}`
  const take = (ids: string) =>
    `-- horsies_tasks_pkey
    return query
    update ${schema}.horsies_tasks t
    set state = 'CLAIMED', fence = t.fence + 1, worker = p_worker
    where t.id = any (${ids})
    returning ${claimedOf};`
  const shares = (ranges?: readonly [string, string]) =>
    `v_taken := array(
            select picked.id
            from generate_subscripts(v_turns, 1) i
            cross join lateral (
              ${
      locked(
        schema,
        {
          queue: "p_queues[q]",
          name: "v_names[v_turns[i]]",
          version: "v_versions[v_turns[i]]",
          key: "v_keys[i]",
          limit: "v_counts[i]"
        },
        ranges
      )
    }
            ) picked
          );`
  return `create function ${schema}.horsies_claim(
  p_worker uuid,
  p_queues text[], p_slots integer[], p_ahead integer[], p_after text[],
  p_lane_queues integer[], ${laneParameters}
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
  v_marked boolean;
  v_keyed boolean;
  v_turns integer[];
  v_keys text[];
  v_firsts integer[];
  v_lasts integer[];
  -- Of each of these lanes, the place of its key in the order of turns, and how many tasks it gives.
  v_places integer[];
  v_counts integer[];
  v_rest integer;
  v_limit integer;
  v_lane integer;
  v_several boolean;
  v_next text;
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

    ${lanesOf(", bool_or(p_lane_keys[l] > '')")}
    into v_lanes, v_names, v_versions, v_marked
    from generate_subscripts(p_lane_queues, 1) l where p_lane_queues[l] = q;
    continue when v_lanes is null;

    -- horsies_tasks_suspect, then horsies_tasks_pkey: the most urgent of all names, and behind them what takes the place of
    -- those that others are claiming
    v_taken := array(
      select picked.id
      from (
        select s.id
        from generate_subscripts(v_names, 1) l
        cross join lateral (
          select t.id, t.priority, t.run_at from ${schema}.horsies_tasks t
          where t.queue = p_queues[q] and t.name = v_names[l] and t.version = v_versions[l]
            and t.state = 'PENDING' and t.due and t.losses > 0 and ${inTime}
          ${order}
          limit p_slots[q] + 100
        ) s
        order by s.priority, s.run_at, s.id
      ) s
      cross join lateral (
        select t.id from ${schema}.horsies_tasks t
        where t.id = s.id and t.state = 'PENDING' and t.due and ${inTime}
        for no key update skip locked
      ) picked
      -- One even when no slot is free: under a steady load none ever would be.
      limit greatest(p_slots[q], least(p_ahead[q], 1))
    );
    v_ids := v_ids || v_taken;
    v_rest := p_slots[q] + p_ahead[q] - cardinality(v_taken);
    continue when v_rest <= 0;

    -- horsies_tasks_ready. Where a key had the last turn, or has ranges, the look at the lanes tells as well.
    v_keyed := p_after[q] > '' or v_marked or exists (
      select from generate_subscripts(v_names, 1) l
      cross join lateral (
        select from ${schema}.horsies_tasks t
        where ${ready({ queue: "p_queues[q]", name: "v_names[l]", version: "v_versions[l]" })}
          and t.concurrency_key > ''
        limit 1
      ) keyed
    );
    if v_keyed then
      -- Another round for what keys with few tasks have left of their shares.
      v_after := p_after[q];
      for v_round in 1..4 loop
        select array_agg(k.lane order by k.n), array_agg(k.concurrency_key order by k.n), array_agg(k.first order by k.n),
          array_agg(k.last order by k.n), array_agg(k.turn order by k.n), coalesce(max(k.turn), 0), max(k.lanes) > 1
        into v_turns, v_keys, v_firsts, v_lasts, v_places, v_lane, v_several
        from (
          select l.*, dense_rank() over (order by l.head)::integer as turn
          from (
            select l.*, min(l.n) over of_key as head, count(*) over of_key as lanes
            from ${schema}.horsies_lanes(
              p_queues[q], v_names, v_versions, v_lanes, ${laneArguments},
              v_after, least(v_rest, 200)
            ) with ordinality as l (lane, concurrency_key, first, last, n)
            window of_key as (partition by l.concurrency_key)
          ) l
        ) k;
        -- That key may have been the last one.
        v_keyed := v_round > 1 or v_lane > 0 and '' <> any (v_keys);
        exit when v_lane = 0 or not v_keyed;
        -- Shares of the keys that add up to what is asked for, so no more rows are locked than that.
        v_next := v_keys[array_position(v_places, case when v_rest % v_lane > 0 then v_rest % v_lane else v_lane end)];
        v_counts := array(
          select v_rest / v_lane + (turn <= v_rest % v_lane)::integer from unnest(v_places) with ordinality t (turn, n) order by n
        );
        if v_several then
          -- Of one key, the most urgent of all its lanes. horsies_tasks_ready, without locks
          v_counts := array(
            select count(head.i)::integer
            from generate_subscripts(v_turns, 1) n
            left join (
              select h.i
              from (
                select i, row_number() over (partition by v_keys[i] order by t.priority, t.run_at, t.id) as place
                from generate_subscripts(v_turns, 1) i
                cross join generate_series(v_firsts[i], v_lasts[i]) r
                cross join lateral (
                  select t.priority, t.run_at, t.id from ${schema}.horsies_tasks t
                  where ${
    ready({ queue: "p_queues[q]", name: "v_names[v_turns[i]]", version: "v_versions[v_turns[i]]" })
  }
                    and t.concurrency_key = v_keys[i] and ${within("r")}
                  ${order}
                  limit v_counts[i]
                ) t
              ) h
              where h.place <= v_counts[h.i]
            ) head (i) on head.i = n
            group by n
            order by n
          );
        end if;
        -- horsies_tasks_ready
        if 0 = all (v_lasts) then
          ${shares()}
        else
          ${shares(["v_firsts[i]", "v_lasts[i]"])}
        end if;
        -- It goes on after the last one whose share was larger.
        v_after := v_next;
        v_limit := v_rest;
        v_rest := v_rest - cardinality(v_taken);
        exit when cardinality(v_taken) = 0;
        ${take("v_taken")}
        exit when v_rest <= 0;
      end loop;
      if v_keyed then
        ${remark("turn", "p_queues[q]", "v_after", "null")}
        if v_rest > 0 and v_lane > 0 then
          -- There is more, or others are claiming these very keys: a moment later they are through.
          ${remark("again", "p_queues[q]", "null", "case when v_rest < v_limit then 0 else 10 end")}
        end if;
        continue;
      end if;
      ${remark("turn", "p_queues[q]", "''", "null")}
    end if;
    if v_marked then
      v_lanes := array(
        select l from unnest(v_lanes) with ordinality as of_queue (l, n) where p_lane_keys[l] = '' order by n
      );
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
