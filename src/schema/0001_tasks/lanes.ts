/**
 * What claims walk. A lane is a range of the ready index: one queue, one name, one version of its payload, one concurrency
 * key. Only lanes that may run now are walked, so nothing that must not run lies in the way of what may.
 */
import { certainPlans } from "./common.ts"

/** What is over is ended by the next promotion; until then nobody may start it. */
export const inTime = "(t.good_until is null or t.good_until > v_now)"

/** The tasks of one lane that are ready, in their order. */
export const ready = (lane: { readonly queue: string; readonly name: string; readonly version: string }) =>
  `t.queue = ${lane.queue} and t.name = ${lane.name} and t.version = ${lane.version}
          and t.state = 'PENDING' and t.due and t.losses = 0 and ${inTime}`

export const order = "order by t.priority, t.run_at, t.id"

/**
 * Where to claim: of each name and version the tasks without a key, and of keys that give many tasks their ranges. A
 * range goes from a (priority, due time) up to a priority; those of one key lie side by side, in order, and the first
 * begins at priority 0.
 */
export const laneParameters = `p_lane_names text[], p_lane_versions integer[], p_lane_keys text[],
  p_lane_from integer[], p_lane_from_at float8[], p_lane_to integer[]`

export const laneArguments = "p_lane_names, p_lane_versions, p_lane_keys, p_lane_from, p_lane_from_at, p_lane_to"

/** The part of a lane that is in a range; all of it without one. */
export const within = (range: string) =>
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
export const lanes = (schema: string) => {
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

/** Which lanes there are, and the names and versions that have any; and more columns. */
export const lanesOf = (more = "") =>
  `select array_agg(l order by l), array_agg(p_lane_names[l]) filter (where p_lane_keys[l] = '' and p_lane_from[l] = 0),
      array_agg(p_lane_versions[l]) filter (where p_lane_keys[l] = '' and p_lane_from[l] = 0)${more}`

/**
 * The first tasks of a key: of all of it, or of its ranges. The limits stand above the lock, so no more rows are locked
 * than taken.
 */
export const locked = (
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
