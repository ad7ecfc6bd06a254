/** A task as the store keeps it: live or ended, with everything that has happened to it. */
import type * as Schema from "effect/Schema"
import type {
  AttemptRecord,
  ClaimedTask,
  EndState,
  Failure,
  NewTask,
  Outcome,
  Tags,
  TaskRecord,
  TaskState,
  When
} from "../Broker.ts"

/** Only the store changes it. */
export interface Entry {
  readonly id: string
  readonly name: string
  readonly queue: string
  readonly payload: string
  readonly version: number
  readonly priority: number
  readonly goodUntil: number | undefined
  readonly timeout: number | undefined
  readonly maxLosses: number
  readonly concurrencyKey: string | undefined
  readonly tags: Tags
  readonly retention: number | undefined
  readonly origin: string | undefined
  readonly sentAt: number
  dueAt: number
  fence: number
  attempts: number
  losses: number
  /** The worker that holds it or ended it. */
  worker: string | undefined
  cancelling: boolean
  successor: string | undefined
  ended: { readonly at: number; readonly outcome: Outcome } | undefined
  readonly history: Array<AttemptRecord>
}

const timeOf = (when: When, now: number) => "at" in when ? when.at : now + when.after

export const make = (task: NewTask, now: number, origin?: string): Entry => ({
  id: task.id,
  name: task.name,
  queue: task.queue,
  payload: task.payload,
  version: task.version,
  priority: task.priority,
  goodUntil: task.goodUntil && timeOf(task.goodUntil, now),
  timeout: task.timeout,
  maxLosses: task.maxLosses,
  concurrencyKey: task.concurrencyKey,
  tags: { ...task.tags },
  retention: task.retention,
  origin,
  sentAt: now,
  dueAt: timeOf(task.due, now),
  fence: 0,
  attempts: 0,
  losses: 0,
  worker: undefined,
  cancelling: false,
  successor: undefined,
  ended: undefined,
  history: []
})

/** The same task once more. How long it was good is over, so that does not hold for the new one. */
export const again = (entry: Entry, id: string, now: number): Entry =>
  make({ ...entry, id, due: { after: 0 }, goodUntil: undefined }, now, entry.id)

/** The order inside a queue. */
export const isMoreUrgent = (a: Entry, b: Entry): boolean =>
  a.priority !== b.priority ? a.priority < b.priority : a.dueAt !== b.dueAt ? a.dueAt < b.dueAt : a.id < b.id

export const isWaiting = ({ ended, worker }: Entry): boolean => ended === undefined && worker === undefined

export const claimed = (entry: Entry, now: number): ClaimedTask => ({
  id: entry.id,
  fence: entry.fence,
  name: entry.name,
  queue: entry.queue,
  payload: entry.payload,
  priority: entry.priority,
  attempt: entry.attempts + 1,
  losses: entry.losses,
  waited: now - entry.dueAt,
  version: entry.version,
  concurrencyKey: entry.concurrencyKey,
  timeout: entry.timeout,
  expiresIn: entry.goodUntil === undefined ? undefined : entry.goodUntil - now
})

/** What a failed attempt leaves behind. */
export const errorOf = (failure: Failure): { readonly error: Schema.Json } => ({
  error: JSON.parse(failure.value) as Schema.Json
})

const endStates = {
  Completed: "COMPLETED",
  Failed: "FAILED",
  Cancelled: "CANCELLED",
  Expired: "EXPIRED"
} as const satisfies Record<Outcome["_tag"], EndState>

export const endState = ({ _tag }: Outcome): EndState => endStates[_tag]

export const stateOf = ({ ended, worker }: Entry): TaskState =>
  ended !== undefined ? endState(ended.outcome) : worker !== undefined ? "CLAIMED" : "PENDING"

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
  version: entry.version,
  goodUntil: entry.goodUntil,
  timeout: entry.timeout,
  concurrencyKey: entry.concurrencyKey,
  tags: entry.tags,
  cancelling: entry.cancelling,
  origin: entry.origin,
  successor: entry.successor,
  worker: entry.worker,
  outcome: entry.ended?.outcome,
  history: [...entry.history]
})
