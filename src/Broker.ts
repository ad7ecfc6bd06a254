/**
 * The contract between everything that uses a task broker (senders, workers, the monitor) and everything that is one.
 *
 * A broker stores tasks, hands them to workers one claim at a time, records one outcome for each and tells whoever waits
 * for it. It deals in encoded values only: payloads and results are JSON texts, so no broker needs to know a schema.
 *
 * What every broker guarantees:
 *
 * - a task whose `send` succeeded is never lost;
 * - a claim raises the task's fence, and whatever is written about a claimed task names the whole hold (task, fence,
 *   worker) and changes nothing when that hold no longer stands;
 * - at most one outcome is recorded for a task;
 * - due times and leases are judged by the broker's clock, never by a worker's;
 * - every failure is a `BrokerError` that says whether trying again can help.
 *
 * Users rarely call it themselves: `Task` sends and awaits, `Worker` claims and finishes.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"

/** The most urgent priority. Lower numbers run first. */
export const highestPriority = 1

/** The least urgent priority, and the default. */
export const lowestPriority = 100

/** A time by the broker's clock: milliseconds from now, or a point in time (milliseconds since the epoch). */
export type When = { readonly after: number } | { readonly at: number }

/** Keys and values by which tasks can be found. */
export type Tags = Readonly<Record<string, string>>

/** A task as its sender describes it. */
export interface NewTask {
  /** A UUIDv7 made by the sender, so that ids sort by the time of sending. */
  readonly id: string
  readonly name: string
  readonly queue: string
  /** The encoded payload, a JSON text. */
  readonly payload: string
  /** Which version of the payload's encoding this is, from 1. Workers that know only older ones leave the task alone. */
  readonly version: number
  /** From `highestPriority` to `lowestPriority`. */
  readonly priority: number
  /** When it may start. */
  readonly due: When
  /** When it is too late to start it: it then ends EXPIRED. */
  readonly goodUntil?: When | undefined
  /** Milliseconds that one attempt may take. */
  readonly timeout?: number | undefined
  /** How many workers may be lost while they hold the task before it ends FAILED. */
  readonly maxLosses: number
  /** Whose task it is. Keys of a queue take turns, and can have limits of their own. */
  readonly concurrencyKey?: string | undefined
  readonly tags?: Tags | undefined
  /** Milliseconds for which the ended task is kept. Default: the broker's `retention`. */
  readonly retention?: number | undefined
  /** At most one task of this name with this key is stored inside the window (milliseconds from now). */
  readonly idempotency?: { readonly key: string; readonly window: number } | undefined
  /** Whether a task with this id may have been stored before. A first send need not look among the ended tasks. */
  readonly repeated?: boolean | undefined
}

/** What became of one task of a send. */
export interface Sent {
  /** The id of the task that is stored: for a duplicate, of the one that was stored before. */
  readonly id: string
  /** Whether it was stored before, under the same id or the same idempotency key. */
  readonly duplicate: boolean
}

/** The hold of one worker on one task. It stands until it is finished, released, or taken away from a dead worker. */
export interface Hold {
  readonly id: string
  /** Raised by every claim of the task; never goes back. */
  readonly fence: number
}

/** A task that has just been claimed. */
export interface ClaimedTask extends Hold {
  readonly name: string
  readonly queue: string
  readonly payload: string
  readonly priority: number
  /** Which attempt the claim is for, from 1. Lost and released claims do not count. */
  readonly attempt: number
  /** How many workers were lost while they held this task. */
  readonly losses: number
  /** Milliseconds between the task's due time and this claim, by the broker's clock. */
  readonly waited: number
  readonly version: number
  readonly concurrencyKey: string | undefined
  /** Milliseconds that the attempt may take. */
  readonly timeout: number | undefined
  /** Milliseconds from this claim in which the task has to start, by the broker's clock. */
  readonly expiresIn: number | undefined
}

/** A name that a worker handles, up to a version of its payload. */
export interface Handled {
  readonly name: string
  readonly version: number
}

/** What a worker can take from one queue. */
export interface Want {
  readonly queue: string
  /** What the worker has a handler for. No other task is touched. */
  readonly handles: ReadonlyArray<Handled>
  /** Tasks that can start at once. */
  readonly slots: number
  /**
   * Tasks to hold ready beyond the slots. Of those that were lost before at most one, and none together with one for a
   * slot: it is to start before all others.
   */
  readonly ahead: number
}

/** What a claim brings. */
export interface Claims {
  readonly tasks: ReadonlyArray<ClaimedTask>
  /** Queues that may have more than they gave, with the milliseconds after which to look again. */
  readonly again: ReadonlyMap<string, number>
  /** Queues of which now as many run at once as may, or that gave less because of it: when one of theirs ends, there may be more. */
  readonly full: ReadonlySet<string>
}

/** Why an attempt failed. */
export const FailureKind = Schema.Literals(["Error", "Defect", "Payload", "Timeout", "Lost"])

/**
 * Why an attempt failed: with the definition's own typed error, with a defect, because its payload did not decode,
 * because it took too long, or because its worker was lost once too often.
 */
export type FailureKind = typeof FailureKind.Type

/** How a failed attempt is recorded. */
export interface Failure {
  readonly kind: FailureKind
  /** A JSON text: the encoded error for `Error`, a description for the others. */
  readonly value: string
}

/** Why an attempt came to nothing although nothing was wrong with its task. */
export const Interruption = Schema.Literals(["Shutdown", "LeaseLost", "Neighbour", "RolledBack"])

/**
 * Why an attempt came to nothing although nothing was wrong with its task: its worker stopped, could not prove its lease, had
 * to interrupt another task of the same batch, or the broker could not bring its transaction to an end.
 */
export type Interruption = typeof Interruption.Type

/** What became of an attempt. Delays are milliseconds from now. */
export type AttemptEnd =
  | { readonly _tag: "Completed"; readonly value: string }
  | { readonly _tag: "Failed"; readonly failure: Failure }
  /** Failed, and to be tried again. */
  | { readonly _tag: "Retry"; readonly failure: Failure; readonly delay: number }
  /** Postponed by its handler. Counts no attempt. */
  | { readonly _tag: "Snoozed"; readonly delay: number }
  /** Handed back at once. Counts no attempt, but is recorded. */
  | { readonly _tag: "Interrupted"; readonly why: Interruption }
  /** The process that ran it died. Counts as the loss of a worker does. */
  | { readonly _tag: "Lost" }
  | { readonly _tag: "Cancelled" }
  /** It was too late to start it. */
  | { readonly _tag: "Expired" }

/** An attempt that has ended and is to be recorded. */
export interface EndedAttempt extends Hold {
  /** Milliseconds since the handler was started, by the worker's monotonic clock; none when it was not started. */
  readonly elapsed: number | undefined
  readonly end: AttemptEnd
}

/** How a task ended, as whoever awaits it learns. */
export type Outcome =
  | { readonly _tag: "Completed"; readonly value: string }
  | { readonly _tag: "Failed"; readonly failure: Failure }
  | { readonly _tag: "Cancelled" }
  | { readonly _tag: "Expired" }

/** The states in which a task has ended. */
export const EndState = Schema.Literals(["COMPLETED", "FAILED", "CANCELLED", "EXPIRED"])

/** The states in which a task has ended. */
export type EndState = typeof EndState.Type

/** The state of a task. A delayed task is PENDING with a due time in the future. */
export const TaskState = Schema.Literals(["PENDING", "CLAIMED", ...EndState.literals])

/** The state of a task. */
export type TaskState = typeof TaskState.Type

/** One attempt that has ended. Times are milliseconds since the epoch, by the broker's clock. */
export const AttemptRecord = Schema.Struct({
  attempt: Schema.Int,
  outcome: Schema.Literals(["Completed", ...FailureKind.literals, "Cancelled", ...Interruption.literals]),
  worker: Schema.NullOr(Schema.String),
  startedAt: Schema.NullOr(Schema.Number),
  endedAt: Schema.Number,
  /** What it failed with, as JSON. */
  error: Schema.optionalKey(Schema.Json)
})

/** One attempt that has ended. Times are milliseconds since the epoch, by the broker's clock. */
export type AttemptRecord = typeof AttemptRecord.Type

/** Everything a broker knows about one task. Times are milliseconds since the epoch, by the broker's clock. */
export interface TaskRecord {
  readonly id: string
  readonly name: string
  readonly queue: string
  readonly payload: string
  readonly state: TaskState
  readonly priority: number
  readonly sentAt: number
  readonly dueAt: number
  readonly endedAt: number | undefined
  readonly fence: number
  /** Attempts that have ended. */
  readonly attempts: number
  readonly losses: number
  readonly version: number
  readonly goodUntil: number | undefined
  /** Milliseconds that one attempt may take. */
  readonly timeout: number | undefined
  readonly concurrencyKey: string | undefined
  readonly tags: Tags
  /** Whether somebody wants it cancelled while a worker holds it. */
  readonly cancelling: boolean
  /** The failed task that was sent again as this one. */
  readonly origin: string | undefined
  /** The task as which this failed one was sent again. */
  readonly successor: string | undefined
  /** The worker that holds it or ended it. */
  readonly worker: string | undefined
  readonly outcome: Outcome | undefined
  /** Every ended or interrupted attempt and every loss, the oldest first. */
  readonly history: ReadonlyArray<AttemptRecord>
}

/** Which tasks are meant: those that fit everything that is given. An empty filter means all. */
export interface Filter {
  readonly ids?: ReadonlyArray<string> | undefined
  readonly name?: string | undefined
  readonly queue?: string | undefined
  readonly concurrencyKey?: string | undefined
  /** Tasks sent with this key, as long as it is kept. Only together with `name`. */
  readonly idempotencyKey?: string | undefined
  /** Tasks that have all of these. */
  readonly tags?: Tags | undefined
}

/** A page of tasks, the last sent first. */
export interface Page {
  readonly states?: ReadonlyArray<TaskState> | undefined
  /** Only tasks with an id below this one: the last of the page before. */
  readonly before?: string | undefined
  /** Default: 100. */
  readonly limit?: number | undefined
}

/** What a cancellation did. */
export interface Cancelled {
  /** Tasks that waited and are CANCELLED now. */
  readonly cancelled: ReadonlyArray<string>
  /** Tasks that a worker holds: it was told, and ends them. */
  readonly requested: ReadonlyArray<string>
}

/** A token bucket: at most `limit` starts per `per` milliseconds, and at most `burst` at once. */
export interface Rate {
  readonly limit: number
  readonly per: number
  /** Default: `limit`. */
  readonly burst?: number | undefined
}

/** Limits that hold over all workers together. */
export interface Limits {
  /** Tasks of the queue that may be claimed at once. */
  readonly concurrency?: number | undefined
  readonly rate?: Rate | undefined
  /** The same for each concurrency key of the queue. Tasks without a key have no such limit. */
  readonly perKey?: { readonly concurrency?: number | undefined; readonly rate?: Rate | undefined } | undefined
}

/** What is set for a queue, for all workers. */
export interface QueueSettings {
  readonly paused: boolean
  readonly limits: Limits
}

/** Why a task does not run. Times are milliseconds since the epoch, by the broker's clock. */
export type WhyNotRunning =
  | { readonly _tag: "NotFound" }
  | { readonly _tag: "Ended"; readonly state: EndState; readonly at: number }
  /** A worker holds it: it runs, or is about to. */
  | { readonly _tag: "Claimed"; readonly worker: string }
  | { readonly _tag: "NotDue"; readonly dueAt: number }
  | { readonly _tag: "Paused"; readonly queue: string }
  /** No worker that is alive has a handler for this name in its queue. */
  | { readonly _tag: "NoWorker"; readonly queue: string; readonly name: string }
  /** The workers that are alive know only older versions of its payload. */
  | { readonly _tag: "NewerVersion"; readonly version: number; readonly known: number }
  /** As many tasks are claimed as may be, of its queue or of its key. */
  | {
    readonly _tag: "Concurrency"
    readonly limit: number
    readonly concurrencyKey: string | undefined
    readonly holders: ReadonlyArray<string>
  }
  /** Too many tasks have started lately, of its queue or of its key. */
  | { readonly _tag: "Rate"; readonly concurrencyKey: string | undefined; readonly freeAt: number }
  /** Nothing is in its way: it waits for its turn, or for a free slot. */
  | {
    readonly _tag: "Nothing" /** More urgent tasks of the same name and key that wait too; counted up to 1000. */
    readonly ahead: number
  }

/** Tells a worker that it may find something to do. A hint: a broker is free to send too many. */
export type WakeUp =
  | {
    readonly _tag: "Sent"
    readonly queue: string
    readonly priority: number
    /** Milliseconds until the earliest of the tasks is due; 0 or less is now. */
    readonly dueIn: number
  }
  /** Somebody wants these tasks cancelled while a worker holds them. */
  | { readonly _tag: "Cancel"; readonly ids: ReadonlyArray<string> }
  /** The queue is paused: what has not started is to be handed back. */
  | { readonly _tag: "Paused"; readonly queue: string }
  /** Hints may have been missed: look at every queue. */
  | { readonly _tag: "LookAgain" }

/** One start of a worker. A worker that comes back does so under a new id. */
export interface WorkerStart {
  readonly id: string
  /** Milliseconds without a heartbeat after which the worker counts as dead. */
  readonly lease: number
  readonly host: string
  readonly pid: number
  readonly handles: ReadonlyArray<Definition>
}

/** A task definition as a worker makes it known: what those need who send without it, and who ask what could run a task. */
export interface Definition extends Handled {
  readonly queue: string
  readonly priority: number
  readonly timeout: number | undefined
  readonly maxLosses: number
  readonly retention: number | undefined
  /** Milliseconds for which an idempotency key stands for the task that was sent with it first. */
  readonly idempotencyWindow: number
}

/** How one queue of a worker is occupied. */
export interface QueueOccupancy {
  readonly queue: string
  /** Tasks that may run at once. */
  readonly concurrency: number
  readonly running: number
  /** Tasks that it holds and has not started. */
  readonly claimed: number
}

/** What one child process of a worker does. */
export interface ChildOccupancy {
  readonly pid: number | undefined
  readonly running: number
  /** Bytes of resident memory, as last heard. */
  readonly memory: number | undefined
}

/** How a worker is doing, by its own account. */
export interface WorkerSnapshot {
  readonly queues: ReadonlyArray<QueueOccupancy>
  /** Tasks that run in this worker, over all queues. */
  readonly running: number
  /** Tasks that it holds and has not started, over all queues. */
  readonly claimed: number
  /** Its child processes; none where handlers run in its own process. */
  readonly processes: ReadonlyArray<ChildOccupancy>
  /** Bytes of resident memory of its own process. */
  readonly memory: number
  /** Processors that its own process kept busy since the snapshot before: 1 is one of them all the time. */
  readonly cpu: number
  /** The options it was started with. Durations are milliseconds. */
  readonly settings: Readonly<Record<string, Schema.Json>>
}

/** A snapshot as it was stored. */
export interface WorkerState extends WorkerSnapshot {
  /** The worker start. */
  readonly worker: string
  readonly host: string
  readonly pid: number
  /** Milliseconds since the epoch, by the broker's clock. */
  readonly at: number
}

/** What a heartbeat is answered with. */
export interface Beat {
  /** `false`: the worker was declared dead meanwhile. It must interrupt everything and come back under a new id. */
  readonly alive: boolean
  /** Tasks that it holds and that somebody wants cancelled. */
  readonly cancelling: ReadonlyArray<string>
}

/** What `recover` did. */
export interface Recovered {
  /** Workers found dead. */
  readonly workers: number
  /** Tasks taken from dead workers that will run again. */
  readonly released: number
  /** Tasks taken from dead workers that ended FAILED because it was one loss too many. */
  readonly failed: number
  /** Milliseconds until the next worker can be found dead, unless a heartbeat renews its lease; none when there is none. */
  readonly nextIn: number | undefined
}

/** The broker cannot be reached, or gave up while it was busy with the request. Trying again can help. */
export class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {
  message: Schema.String,
  sqlState: Schema.optionalKey(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  readonly isRetryable = true
}

/** The server is out of connections, memory or disk. Trying again can help, after a pause. */
export class Overloaded extends Schema.TaggedError<Overloaded>()("Overloaded", {
  message: Schema.String,
  sqlState: Schema.optionalKey(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  readonly isRetryable = true
}

/** Another transaction was in the way (deadlock, serialization, lock timeout). The whole transaction can be tried again. */
export class Conflict extends Schema.TaggedError<Conflict>()("Conflict", {
  message: Schema.String,
  sqlState: Schema.optionalKey(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  readonly isRetryable = true
}

/** The broker understood the request and refused it: credentials, rights, certificates, data. Trying again does not help. */
export class Refused extends Schema.TaggedError<Refused>()("Refused", {
  message: Schema.String,
  sqlState: Schema.optionalKey(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  readonly isRetryable = false
}

/** The database's schema does not fit this version of the code. */
export class SchemaMismatch extends Schema.TaggedError<SchemaMismatch>()("SchemaMismatch", {
  message: Schema.String,
  /** The version in the database; absent when the schema is not there. */
  found: Schema.optionalKey(Schema.Int),
  expected: Schema.Int
}) {
  readonly isRetryable = false
}

/** The settings do not allow what was asked for. */
export class Misconfigured extends Schema.TaggedError<Misconfigured>()("Misconfigured", {
  /** The setting to change. */
  field: Schema.String,
  /** Stable, for programs. */
  code: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
}

/** What went wrong in a broker. */
export type BrokerErrorReason = Unavailable | Overloaded | Conflict | Refused | SchemaMismatch | Misconfigured

/**
 * The one error of a broker. Its `reason` tells what went wrong, `isRetryable` whether trying again can help.
 *
 * @example
 * ```ts
 * import { Broker, Task } from "effect-horsies"
 * import { Effect, Schedule, Schema } from "effect"
 *
 * class Greet extends Task.make("Greet", { payload: { name: Schema.String } }) {}
 *
 * const patient = Greet.send({ name: "Ada" }).pipe(
 *   Effect.retry({
 *     while: (error) => error._tag === "BrokerError" && error.isRetryable,
 *     schedule: Schedule.exponential("100 millis"),
 *     times: 5
 *   })
 * )
 * ```
 */
export class BrokerError extends Schema.TaggedError<BrokerError>()("BrokerError", {
  reason: Schema.Union([Unavailable, Overloaded, Conflict, Refused, SchemaMismatch, Misconfigured])
}) {
  override get message(): string {
    return `${this.reason._tag}: ${this.reason.message}`
  }
  /** Whether the same request can succeed when it is made again. */
  get isRetryable(): boolean {
    return this.reason.isRetryable
  }
  /** What a log line says of it, beside its fixed text. */
  get annotations(): Readonly<Record<string, unknown>> {
    return { reason: this.reason._tag, error: this.reason.message }
  }
}

/** There is no task with this id: it was never sent, its transaction was rolled back, or it is no longer kept. */
export class TaskNotFound extends Schema.TaggedError<TaskNotFound>()("TaskNotFound", { id: Schema.String }) {
  override get message(): string {
    return `there is no task ${this.id}: it was never sent, its transaction has not been committed, or it is no longer kept`
  }
}

/** Another task has this id: one with another name or another payload. Nothing was sent. */
export class IdTaken extends Schema.TaggedError<IdTaken>()("IdTaken", { id: Schema.String }) {
  override get message(): string {
    return `there is another task with the id ${this.id}; send this one with an id of its own`
  }
}

/** What a broker without database transactions says to who wants one. */
export const noTransactions = new BrokerError({
  reason: new Misconfigured({
    field: "transaction",
    code: "TRANSACTIONS_UNSUPPORTED",
    message: "this broker has no transactions; leave out `transaction`, or use one over PostgreSQL"
  })
})

/** A task broker. See the head of this module for what each implementation guarantees. */
export class Broker extends Context.Service<Broker, {
  /** How long ended tasks are kept that say nothing else, in milliseconds. */
  readonly retention: Effect.Effect<number>

  /**
   * Stores tasks: all of them or none. Inside a transaction that the broker can see, they are part of it; workers are
   * woken after its commit. A task that says `repeated` and was stored before is left as it is; so is one whose
   * idempotency key has its task already. Succeeds with what became of each, in their order.
   */
  readonly send: (tasks: ReadonlyArray<NewTask>) => Effect.Effect<ReadonlyArray<Sent>, BrokerError | IdTaken>

  /**
   * Waits until the task has ended. Costs no polling while the broker can push. Fails with `TaskNotFound` when there is
   * no such task.
   */
  readonly outcome: (id: string) => Effect.Effect<Outcome, BrokerError | TaskNotFound>

  /** Looks a task up, live or ended. */
  readonly find: (id: string) => Effect.Effect<Option.Option<TaskRecord>, BrokerError>

  /** Looks tasks up, live and ended, the last sent first. */
  readonly list: (filter: Filter, page: Page) => Effect.Effect<ReadonlyArray<TaskRecord>, BrokerError>

  /** Why a task does not run. */
  readonly whyNotRunning: (id: string) => Effect.Effect<WhyNotRunning, BrokerError>

  /**
   * Cancels tasks. What waits is CANCELLED at once. Of what is claimed the holder is told: it interrupts the handler and
   * ends the task CANCELLED, unless an outcome was recorded before.
   */
  readonly cancel: (filter: Filter) => Effect.Effect<Cancelled, BrokerError>

  /**
   * Sends FAILED tasks again, each as a new task that names the old one as its origin. One that was sent again before is
   * left out. Succeeds with the old and the new ids.
   */
  readonly resend: (
    filter: Filter
  ) => Effect.Effect<ReadonlyArray<{ readonly origin: string; readonly id: string }>, BrokerError>

  /** What is set for a queue. */
  readonly queue: (queue: string) => Effect.Effect<QueueSettings, BrokerError>

  /**
   * Pauses or resumes a queue, or sets its limits, for all workers; what is not given stays. No task of a paused queue is
   * claimed, and what workers hold ready is handed back; what runs goes on. Limits hold for claims that begin afterwards.
   */
  readonly configureQueue: (queue: string, settings: Partial<QueueSettings>) => Effect.Effect<void, BrokerError>

  /** Makes a worker start known, and what it handles. Its lease begins. Once more, with more handlers, is a heartbeat. */
  readonly register: (worker: WorkerStart) => Effect.Effect<void, BrokerError>

  /** Renews the lease of a worker and records what it runs; with a snapshot, also how it is doing. */
  readonly heartbeat: (
    worker: string,
    running: ReadonlyArray<Hold>,
    snapshot?: WorkerSnapshot
  ) => Effect.Effect<Beat, BrokerError>

  /**
   * The snapshots of one worker start, the last first; without one, the last of each. They are kept for half an hour,
   * whatever becomes of the worker, and may be lost when the server crashes.
   */
  readonly workerStates: (worker?: string) => Effect.Effect<ReadonlyArray<WorkerState>, BrokerError>

  /** Forgets a worker that has handed back or finished everything. */
  readonly deregister: (worker: string) => Effect.Effect<void, BrokerError>

  /**
   * Claims ready tasks, the most urgent first; a broker may put tasks that were lost before in front of all others.
   * Where tasks have concurrency keys, the keys of a queue take turns, tasks without one counting as one key. Queues with
   * limits are never claimed ahead. A worker that was declared dead gets none.
   */
  readonly claim: (worker: string, wants: ReadonlyArray<Want>) => Effect.Effect<Claims, BrokerError>

  /**
   * Records ended attempts and, when `wants` is not empty, claims in the same step. `accepted` names the tasks whose hold
   * stood; the others were taken away meanwhile and nothing was recorded for them. A task that would run again, but that
   * somebody wants cancelled, ends CANCELLED instead.
   */
  readonly finish: (
    worker: string,
    attempts: ReadonlyArray<EndedAttempt>,
    wants: ReadonlyArray<Want>
  ) => Effect.Effect<{ readonly accepted: ReadonlySet<string>; readonly claimed: Claims }, BrokerError>

  /** Whether the broker has database transactions, so that `transact` can be used. */
  readonly transactional: Effect.Effect<boolean>

  /**
   * Runs an attempt inside one database transaction together with its completion: what it does in the database happens
   * exactly when `Completed` is recorded for it. With any other end it is rolled back, and is yet to be recorded. A broker
   * without transactions refuses.
   */
  readonly transact: <R>(
    worker: string,
    hold: Hold,
    attempt: Effect.Effect<{ readonly end: AttemptEnd; readonly elapsed: number }, never, R>
  ) => Effect.Effect<
    {
      readonly end: AttemptEnd
      /** Whether it is recorded, or never will be because the hold stands no longer. */
      readonly settled: boolean
    },
    BrokerError,
    R
  >

  /**
   * What this worker holds. It can be more than the worker knows of: a claim whose answer was lost stands all the same.
   */
  readonly holds: (worker: string) => Effect.Effect<ReadonlyArray<Hold>, BrokerError>

  /** Hands claims back at once that have not started. No attempt is counted. */
  readonly release: (worker: string, holds: ReadonlyArray<Hold>) => Effect.Effect<void, BrokerError>

  /**
   * Makes tasks ready whose time has come, and ends those EXPIRED whose time is over. Succeeds with the milliseconds until
   * the next such moment of these queues, or `undefined` when there is none.
   */
  readonly promote: (queues: ReadonlyArray<string>) => Effect.Effect<number | undefined, BrokerError>

  /**
   * Finds dead workers and takes their tasks away from them. Any number of callers may do so at once. After an outage, in
   * which no worker could send a heartbeat, everybody has a lease to come back.
   */
  readonly recover: Effect.Effect<Recovered, BrokerError>

  /** Removes what need not be kept any longer. Any number of callers may do so at once. */
  readonly sweep: Effect.Effect<void, BrokerError>

  /** Subscribes to wake-ups until the scope closes. */
  readonly wakeUps: Effect.Effect<Queue.Dequeue<WakeUp>, never, Scope.Scope>
}>()("effect-horsies/Broker") {}
