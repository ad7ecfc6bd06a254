/** Why a task does not run. */
import type { WhyNotRunning } from "../Broker.ts"
import { endState } from "./Entry.ts"
import type { Store } from "./Store.ts"

/** Counting on would cost more than it tells. */
const mostAhead = 1000

export const whyNotRunning = (store: Store, id: string, now: number): WhyNotRunning => {
  const entry = store.get(id)
  if (entry === undefined) return { _tag: "NotFound" }
  const { dueAt, ended, name, version, worker } = entry
  if (ended !== undefined) return { _tag: "Ended", state: endState(ended.outcome), at: ended.at }
  if (worker !== undefined) return { _tag: "Claimed", worker }
  if (dueAt > now) return { _tag: "NotDue", dueAt }
  const queue = store.queues.get(entry.queue)!
  if (queue.settings.paused) return { _tag: "Paused", queue: entry.queue }
  const known = store.workers.known(entry.queue, name, now)
  if (known === undefined) return { _tag: "NoWorker", queue: entry.queue, name }
  if (known < version) return { _tag: "NewerVersion", version, known }
  return queue.hindrance(entry, now) ?? { _tag: "Nothing", ahead: queue.ahead(entry, mostAhead) }
}
