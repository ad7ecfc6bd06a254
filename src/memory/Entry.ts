/** A task as the store keeps it: live or ended, with everything that has happened to it. */
import type * as Schema from "effect/Schema"
import type { AttemptRecord, ClaimedTask, Failure, NewTask, Outcome, TaskRecord, TaskState } from "../Broker.ts"

/** Only the store changes it. */
export interface Entry {
  readonly id: string
  readonly name: string
  readonly queue: string
  readonly payload: string
  readonly priority: number
  readonly maxLosses: number
  readonly sentAt: number
  dueAt: number
  fence: number
  attempts: number
  losses: number
  /** The worker that holds it or ended it. */
  worker: string | undefined
  ended: { readonly at: number; readonly outcome: Outcome } | undefined
  readonly history: Array<AttemptRecord>
}

export const make = (task: NewTask, now: number): Entry => ({
  id: task.id,
  name: task.name,
  queue: task.queue,
  payload: task.payload,
  priority: task.priority,
  maxLosses: task.maxLosses,
  sentAt: now,
  dueAt: "at" in task.due ? task.due.at : now + task.due.after,
  fence: 0,
  attempts: 0,
  losses: 0,
  worker: undefined,
  ended: undefined,
  history: []
})

/** The order inside a queue. */
export const isMoreUrgent = (a: Entry, b: Entry): boolean =>
  a.priority !== b.priority ? a.priority < b.priority : a.dueAt !== b.dueAt ? a.dueAt < b.dueAt : a.id < b.id

export const claimed = (entry: Entry, now: number): ClaimedTask => ({
  id: entry.id,
  fence: entry.fence,
  name: entry.name,
  queue: entry.queue,
  payload: entry.payload,
  priority: entry.priority,
  attempt: entry.attempts + 1,
  losses: entry.losses,
  waited: now - entry.dueAt
})

/** What a failed attempt leaves behind. */
export const errorOf = (failure: Failure): { readonly error: Schema.Json } => ({
  error: JSON.parse(failure.value) as Schema.Json
})

const stateOf = ({ ended, worker }: Entry): TaskState =>
  ended !== undefined
    ? ended.outcome._tag === "Completed" ? "COMPLETED" : "FAILED"
    : worker !== undefined
    ? "CLAIMED"
    : "PENDING"

export const record = (entry: Entry): TaskRecord => ({
  id: entry.id,
  name: entry.name,
  queue: entry.queue,
  payload: entry.payload,
  state: stateOf(entry),
  priority: entry.priority,
  sentAt: entry.sentAt,
  dueAt: entry.dueAt,
  endedAt: entry.ended?.at,
  fence: entry.fence,
  attempts: entry.attempts,
  losses: entry.losses,
  worker: entry.worker,
  outcome: entry.ended?.outcome,
  history: [...entry.history]
})
