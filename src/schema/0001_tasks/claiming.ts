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

/** A row that says something about a queue instead of being a task: what, and a number or a key. `from` may make it several. */
const remark = (what: string, queue: string, key: string, number: string, from = "") =>
  `return query select null::uuid, null::integer, '${what}'::text, ${queue}::text, ${key}::text, null::smallint,
      null::integer, null::smallint, ${number}::float8, null::float8, null::smallint, null::text, null::float8,
      null::float8${from};`

const isAlive = (schema: string) =>
  `exists (select from ${schema}.horsies_heartbeats b where b.worker = p_worker and b.died_at is null)`

/** What is over is ended by the next promotion; until then nobody may start it. */
const inTime = "(t.good_until is null or t.good_until > v_now)"

/** The tasks of one lane that are ready, in their order. */
const ready = (lane: { readonly queue: string; readonly name: string; readonly version: string }) =>
  `t.queue = ${lane.queue} and t.name = ${lane.name} and t.version = ${lane.version}
          and t.state = 'PENDING' and t.due and t.losses = 0 and ${inTime}`

const order = "order by t.priority, t.run_at, t.id"

/** Keys in the order of their turns, and the lanes of each by their most urgent tasks. */
const byTurn = "order by x.turn, x.priority, x.run_at, x.id"

/**
 * Where to claim: of each name and version the tasks without a key, and of keys that give many tasks their ranges. A
 * range goes from a (priority, due time) up to a priority; those of one key lie side by side, in order, and the first
 * begins at priority 0.
 */
const laneParameters = `p_lane_names text[], p_lane_versions integer[], p_lane_keys text[],
  p_lane_from integer[], p_lane_from_at float8[], p_lane_to integer[]`

const laneArguments = "p_lane_names, p_lane_versions, p_lane_keys, p_lane_from, p_lane_from_at, p_lane_to"

/** The part of a lane that is in a range; all of it without one. */
const within = (range: string) =>
  `(t.priority, t.run_at) >= (
            coalesce(p_lane_from[${range}], 0)::smallint,
            coalesce(to_timestamp(p_lane_from_at[${range}] / 1000), '-infinity')
          )
          and t.priority <= coalesce(p_lane_to[${range}], 100)::smallint`

/**
 * The lanes with ready tasks of so many keys, one step of the index for each, in the order in which the keys take turns: from
 * the key after `p_after` on, and around; of each lane its first and last range, or zeros where it has none. Tasks without a key have
 * the key ''. A key with ranges is stepped to, and looked for in these: nothing else of it is read.
 */
const lanes = (schema: string) => {
  const inLane = ready({ queue: "p_queue", name: "p_names[l]", version: "p_versions[l]" })
  const next = (before = "") =>
    `(
            select t.concurrency_key from ${schema}.horsies_tasks t
            where ${inLane}
              and t.concurrency_key > v.concurrency_key${before}
            order by t.concurrency_key limit 1
          )`
  return `create function ${schema}.horsies_lanes(
  p_queue text, p_names text[], p_versions integer[], p_lanes integer[], ${laneParameters},
  p_after text, p_limit integer
) returns table (lane integer, concurrency_key text, first integer, last integer)
language plpgsql${certainPlans}
as $$
#variable_conflict use_column
declare
  v_now timestamptz := ${schema}.horsies_now();
begin
  return query
  select found.lane, found.concurrency_key, found.first, found.last
  from (
    select found.*, dense_rank() over (order by found.wrapped, found.concurrency_key) as turn
    from generate_subscripts(p_names, 1) l
  cross join lateral (
    -- The keys with ranges, in their order; '' is always among them, and the first.
    select array_agg(k.key order by k.key) as keys, array_agg(k.first order by k.key) as firsts,
      array_agg(k.last order by k.key) as lasts
    from (
      select coalesce(p_lane_keys[r], '') collate "C" as key, coalesce(min(nullif(r, 0)), 0) as first, max(r) as last
      from unnest(p_lanes || 0) r
      where r = 0 or p_lane_names[r] = p_names[l] and p_lane_versions[r] = p_versions[l]
        -- One from the first to the last priority is all of its lane.
        and p_lane_to[r] - p_lane_from[r] < 100
      group by 1
    ) k
  ) m
  cross join lateral (
    -- \`next_mark\` is the first of those keys behind \`concurrency_key\`, \`mark\` says which one this is.
    with recursive visited (concurrency_key, mark, found, n, wrapped, next_mark) as (
      select p_after collate "C", null::integer, false, 0, false, width_bucket(p_after collate "C", m.keys) + 1
      union all
      select coalesce(v.next, m.keys[v.mark]),
        case when v.next is null then v.mark end,
        -- horsies_tasks_ready
        case when v.next is not null then true else exists (
          select from generate_series(m.firsts[v.mark], m.lasts[v.mark]) r
          cross join lateral (
            select from ${schema}.horsies_tasks t
            where ${inLane} and t.concurrency_key = m.keys[v.mark]
              and ${within("r")}
            limit 1
          ) t
        ) end,
        v.n,
        v.wrapped or v.next is null and v.mark = 1,
        case when v.next is null then v.mark + 1 else v.next_mark end
      from (
        select v.wrapped, v.next_mark, v.n + v.found::integer as n,
          case when v.next_mark > cardinality(m.keys) then 1 else v.next_mark end as mark,
          -- horsies_tasks_ready
          case when v.next_mark > cardinality(m.keys) then ${next()}
          else ${next(" and t.concurrency_key < m.keys[v.next_mark]")} end as next
        from visited v
        where v.n + v.found::integer < p_limit and not (v.wrapped and v.concurrency_key >= p_after)
        offset 0
      ) v
      where not (v.wrapped and v.next is null and v.mark = 1)
    )
    select l as lane, v.concurrency_key, coalesce(m.firsts[v.mark], 0) as first, coalesce(m.lasts[v.mark], 0) as last,
      v.wrapped
    from visited v
    where v.found and (not v.wrapped or v.concurrency_key <= p_after)
    ) found
  ) found
  where found.turn <= p_limit
  order by found.turn, found.lane;
end
$$`
}

/** Which lanes there are, and the names and versions that have any. */
const lanesOf = (where: string) =>
  `select array_agg(l order by l), array_agg(p_lane_names[l]) filter (where p_lane_keys[l] = '' and p_lane_from[l] = 0),
      array_agg(p_lane_versions[l]) filter (where p_lane_keys[l] = '' and p_lane_from[l] = 0)${where}`

/**
 * The first tasks of a key: of all of it, or of its ranges. The limits stand above the lock, so no more rows are locked
 * than taken.
 */
const locked = (
  schema: string,
  { key, limit, ...lane }: Readonly<Record<"queue" | "name" | "version" | "key" | "limit", string>>,
  ranges?: readonly [first: string, last: string]
): string => {
  const tasks = (inRange = "") =>
    `select t.id from ${schema}.horsies_tasks t
            where ${ready(lane)}
              and t.concurrency_key = ${key}${inRange}
            ${order}
            limit ${limit}
            for no key update skip locked`
  return ranges === undefined ? tasks() : `select t.id
          from generate_series(${ranges[0]}, ${ranges[1]}) r
          cross join lateral (
            ${tasks(` and ${within("r")}`)}
          ) t
          limit ${limit}`
}

/**
 * Claims from queues without limits. `p_slots` tasks of a queue may start at once, `p_ahead` more may be held ready.
 * Without concurrency keys, the lanes of a queue with a single name come in the order of their priorities and are simply
 * walked; with several names, a look at the heads of all lanes first tells how many tasks of each belong to the most
 * urgent ones. With keys, the keys take turns.
 */
const claim = (schema: string) => {
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
        into v_turns, v_keys, v_firsts, v_lasts, v_counts, v_lane, v_several
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
        v_next := v_keys[array_position(v_counts, case when v_rest % v_lane > 0 then v_rest % v_lane else v_lane end)];
        v_counts := array(
          select v_rest / v_lane + (turn <= v_rest % v_lane)::integer from unnest(v_counts) with ordinality t (turn, n) order by n
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
const claimLimited = (schema: string) => {
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

  ${lanesOf("")}
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

export const claiming = (schema: string) => [lanes(schema), claim(schema), claimLimited(schema)]
