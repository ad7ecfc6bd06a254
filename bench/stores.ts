/** How the benchmark sees from outside what became of the tasks, each statement the same for a whole run. */
import type { Name } from "./contestant.ts"

export interface Store {
  /** Whether nothing is left to do. True only once the last completion is committed. */
  readonly drained: string
  /** One row for each thing that is wrong with the final rows. $1 is the number of tasks. */
  readonly problems: string
}

const horsies: Store = {
  drained: "select not exists (select from horsies_tasks)",
  problems: `
select format('%s tasks are still live', live) from (select count(*) as live from horsies_tasks) t where live <> 0
union all
select format('%s of %s tasks are COMPLETED in the history', kept, $1::int)
from (select count(distinct id) as kept from horsies_history where state = 'COMPLETED') h where kept <> $1::int
union all
select format('%s rows in the history are not COMPLETED, or twice', more)
from (
  select count(*) - count(distinct id) filter (where state = 'COMPLETED') as more from horsies_history
) h where more <> 0`
}

const graphile: Store = {
  drained: "select not exists (select from graphile_worker._private_jobs)",
  problems: `
select format('%s of %s jobs are left', left_over, $1::int)
from (select count(*) as left_over from graphile_worker._private_jobs) j where left_over <> 0`
}

export const stores: Record<Name, Store> = { ours: horsies, raw: horsies, graphileTuned: graphile }
