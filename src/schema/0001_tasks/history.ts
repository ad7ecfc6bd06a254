/** Partitions of the history, and the removal of what need not be kept any longer. */

const partitionOf = (day: string) => `'horsies_history_' || to_char(${day}, 'YYYYMMDD')`

export const history = (schema: string) => [
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
$$`,

  // Removes what need not be kept any longer, in batches. Ended tasks without a retention of their own go with their
  // partition: this moves what such a partition holds for longer, and names the partitions that can go.
  `create function ${schema}.horsies_sweep(p_retention float8, p_limit integer)
returns table (removed integer, partitions text[])
language plpgsql
as $$
declare
  v_now timestamptz := ${schema}.horsies_now();
  v_oldest timestamptz := v_now - p_retention * interval '1 millisecond';
  v_count integer;
  v_name text;
begin
  partitions := '{}';
  -- rows of dead workers, for as long as somebody may want to see them
  delete from ${schema}.horsies_heartbeats where died_at < v_now - interval '1 day';
  -- of waiters that are gone; those who still wait write theirs again
  delete from ${schema}.horsies_waiters where since < v_now - interval '1 hour';
  -- horsies_idempotency_keys_expires
  delete from ${schema}.horsies_idempotency_keys k
  where (k.name, k.key) in (
    select o.name, o.key from ${schema}.horsies_idempotency_keys o
    where o.expires_at <= v_now order by o.expires_at limit p_limit
    for update skip locked
  );
  get diagnostics removed = row_count;
  -- of queues and keys that are at rest: a bucket that is full again is as good as none
  delete from ${schema}.horsies_buckets b
  where (b.queue, b.concurrency_key) in (
    select o.queue, o.concurrency_key
    from ${schema}.horsies_buckets o
    left join ${schema}.horsies_queues q on q.queue = o.queue
    cross join lateral (
      select case when o.concurrency_key = '' then q.burst else q.key_burst end as burst,
        case when o.concurrency_key = '' then q.rate / q.rate_per else q.key_rate / q.key_rate_per end as pace
    ) of_it
    where coalesce(o.tokens + extract(epoch from v_now - o.at) * 1000 * of_it.pace >= of_it.burst, true)
    limit p_limit
    for update of o skip locked
  );
  get diagnostics v_count = row_count;
  removed := removed + v_count;
  -- horsies_worker_states_taken
  delete from ${schema}.horsies_worker_states s
  where s.ctid = any (array(
    select o.ctid from ${schema}.horsies_worker_states o
    where o.taken_at < v_now - interval '30 minutes' order by o.taken_at limit p_limit
  ));
  get diagnostics v_count = row_count;
  removed := removed + v_count;
  -- horsies_history_keep
  delete from ${schema}.horsies_history h
  using (
    select o.id, o.ended_at from ${schema}.horsies_history o
    where o.keep_until <= v_now order by o.keep_until limit p_limit
  ) over
  where h.id = over.id and h.ended_at = over.ended_at;
  get diagnostics v_count = row_count;
  removed := removed + v_count;
  -- the overflow is small, or somebody has to look after the partitions
  delete from ${schema}.horsies_history_overflow h
  where h.ctid = any (array(
    select o.ctid from ${schema}.horsies_history_overflow o
    where coalesce(o.keep_until, o.ended_at + p_retention * interval '1 millisecond') <= v_now limit p_limit
  ));
  get diagnostics v_count = row_count;
  removed := removed + v_count;

  for v_name in
    select c.relname
    from pg_class c
    where c.relnamespace = '${schema}'::regnamespace and c.relkind = 'r' and c.relname ~ '^horsies_history_[0-9]{8}$'
      and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= (v_oldest at time zone 'UTC')::date
    order by c.relname
  loop
    execute format(
      'with moved as (
        delete from ${schema}.%1$I where ctid = any (array(
          select ctid from ${schema}.%1$I where keep_until > $1 limit $2
        )) returning *
      )
      insert into ${schema}.horsies_history_overflow select * from moved', v_name
    ) using v_now, p_limit;
    get diagnostics v_count = row_count;
    if v_count < p_limit then
      partitions := partitions || v_name;
    end if;
  end loop;

  begin
    perform ${schema}.horsies_prepare_history(2);
  exception when insufficient_privilege then
    -- A role that may not make tables can do without: what finds no partition goes to the overflow.
    null;
  end;
  return next;
end
$$`
]
