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

/** A task as its sender describes it. */
export interface NewTask {
  /** A UUIDv7 made by the sender, so that ids sort by the time of sending. */
  readonly id: string
  readonly name: string
  readonly queue: string
  /** The encoded payload, a JSON text. */
  readonly payload: string
  /** From `highestPriority` to `lowestPriority`. */
  readonly priority: number
  /** When it may start: milliseconds from now, or a point in time (milliseconds since the epoch). */
  readonly due: { readonly after: number } | { readonly at: number }
  /** How many workers may be lost while they hold the task before it ends FAILED. */
  readonly maxLosses: number
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
}

/** What a worker can take from one queue. */
export interface Want {
  readonly queue: string
  /** The names that the worker has a handler for. No other task is touched. */
  readonly names: ReadonlyArray<string>
  /** Tasks that can start at once. */
  readonly slots: number
  /** Tasks to hold ready beyond the slots. One that was lost before is never claimed ahead. */
  readonly ahead: number
}

/** Why an attempt failed. */
export const FailureKind = Schema.Literals(["Error", "Defect", "Payload", "Lost"])

/**
 * Why an attempt failed: with the definition's own typed error, with a defect, because its payload did not decode, or
 * because its worker was lost once too often.
 */
export type FailureKind = typeof FailureKind.Type

/** How a failed attempt is recorded. */
export interface Failure {
  readonly kind: FailureKind
  /** A JSON text: the encoded error for `Error`, a description for the others. */
  readonly value: string
}

/** What became of an attempt. */
export type AttemptEnd =
  | { readonly _tag: "Completed"; readonly value: string }
  | { readonly _tag: "Failed"; readonly failure: Failure }
  | { readonly _tag: "Retry"; readonly failure: Failure; /** Milliseconds from now. */ readonly delay: number }

/** An attempt that has ended and is to be recorded. */
export interface EndedAttempt extends Hold {
  /** Milliseconds since the handler was started, by the worker's monotonic clock. */
  readonly elapsed: number
  readonly end: AttemptEnd
}

/** How a task ended, as whoever awaits it learns. */
export type Outcome =
  | { readonly _tag: "Completed"; readonly value: string }
  | { readonly _tag: "Failed"; readonly failure: Failure }

/** The state of a task. A delayed task is PENDING with a due time in the future. */
export const TaskState = Schema.Literals(["PENDING", "CLAIMED", "COMPLETED", "FAILED"])

/** The state of a task. */
export type TaskState = typeof TaskState.Type

/** One attempt that has ended. Times are milliseconds since the epoch, by the broker's clock. */
export const AttemptRecord = Schema.Struct({
  attempt: Schema.Int,
  outcome: Schema.Literals(["Completed", "Error", "Defect", "Payload", "Lost"]),
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
  /** The worker that holds it or ended it. */
  readonly worker: string | undefined
  readonly outcome: Outcome | undefined
  /** Every ended attempt and every loss, the oldest first. */
  readonly history: ReadonlyArray<AttemptRecord>
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
  /** Hints may have been missed: look at every queue. */
  | { readonly _tag: "LookAgain" }

/** One start of a worker. A worker that comes back does so under a new id. */
export interface WorkerStart {
  readonly id: string
  /** Milliseconds without a heartbeat after which the worker counts as dead. */
  readonly lease: number
  readonly host: string
  readonly pid: number
  readonly queues: ReadonlyArray<string>
}

/** What `recover` did. */
export interface Recovered {
  /** Workers found dead. */
  readonly workers: number
  /** Tasks taken from dead workers that will run again. */
  readonly released: number
  /** Tasks taken from dead workers that ended FAILED because it was one loss too many. */
  readonly failed: number
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

/** A task broker. See the head of this module for what each implementation guarantees. */
export class Broker extends Context.Service<Broker, {
  /**
   * Stores tasks: all of them or none. Inside a transaction that the broker can see, they are part of it; workers are
   * woken after its commit.
   */
  readonly send: (tasks: ReadonlyArray<NewTask>) => Effect.Effect<void, BrokerError>

  /**
   * Waits until the task has ended. Costs no polling while the broker can push. Fails with `TaskNotFound` when there is
   * no such task.
   */
  readonly outcome: (id: string) => Effect.Effect<Outcome, BrokerError | TaskNotFound>

  /** Looks a task up, live or ended. */
  readonly find: (id: string) => Effect.Effect<Option.Option<TaskRecord>, BrokerError>

  /** Makes a worker start known. Its lease begins. */
  readonly register: (worker: WorkerStart) => Effect.Effect<void, BrokerError>

  /**
   * Renews the lease of a worker and records what it runs. Succeeds with `false` when the worker was declared dead
   * meanwhile: it must interrupt everything and come back under a new id.
   */
  readonly heartbeat: (worker: string, running: ReadonlyArray<Hold>) => Effect.Effect<boolean, BrokerError>

  /** Forgets a worker that has handed back or finished everything. */
  readonly deregister: (worker: string) => Effect.Effect<void, BrokerError>

  /**
   * Claims ready tasks, the most urgent first; a broker may put tasks that were lost before in front of all others. A
   * worker that was declared dead gets none.
   */
  readonly claim: (
    worker: string,
    wants: ReadonlyArray<Want>
  ) => Effect.Effect<ReadonlyArray<ClaimedTask>, BrokerError>

  /**
   * Records ended attempts and, when `wants` is not empty, claims in the same step. `accepted` names the tasks whose hold
   * stood; the others were taken away meanwhile and nothing was recorded for them.
   */
  readonly finish: (
    worker: string,
    attempts: ReadonlyArray<EndedAttempt>,
    wants: ReadonlyArray<Want>
  ) => Effect.Effect<{
    readonly accepted: ReadonlySet<string>
    readonly claimed: ReadonlyArray<ClaimedTask>
  }, BrokerError>

  /**
   * What this worker holds. It can be more than the worker knows of: a claim whose answer was lost stands all the same.
   */
  readonly holds: (worker: string) => Effect.Effect<ReadonlyArray<Hold>, BrokerError>

  /** Hands claims back at once. No attempt is counted. */
  readonly release: (worker: string, holds: ReadonlyArray<Hold>) => Effect.Effect<void, BrokerError>

  /**
   * Makes tasks ready whose time has come. Succeeds with the milliseconds until the next delayed task of these queues is
   * due, or `undefined` when there is none.
   */
  readonly promote: (queues: ReadonlyArray<string>) => Effect.Effect<number | undefined, BrokerError>

  /** Finds dead workers and takes their tasks away from them. Any number of callers may do so at once. */
  readonly recover: Effect.Effect<Recovered, BrokerError>

  /** Subscribes to wake-ups until the scope closes. */
  readonly wakeUps: Effect.Effect<Queue.Dequeue<WakeUp>, never, Scope.Scope>
}>()("effect-horsies/Broker") {}
