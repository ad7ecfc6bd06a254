/** What can go wrong with a task, for who sends it and who awaits it. `Task.ts` exports all of it. */
import * as Schema from "effect/Schema"
import type { BrokerError, TaskNotFound } from "../Broker.ts"

/** The payload does not fit the definition's schema, or an option of `send` is out of range. Nothing was sent. */
export class PayloadError extends Schema.TaggedError<PayloadError>()("PayloadError", {
  task: Schema.String,
  message: Schema.String
}) {}

/** The task ended FAILED: its handler died, on its last attempt. */
export class TaskDefect extends Schema.TaggedError<TaskDefect>()("TaskDefect", {
  id: Schema.String,
  defect: Schema.String
}) {
  override get message(): string {
    return `task ${this.id} failed with a defect: ${this.defect}`
  }
}

/** The task ended FAILED because too many workers were lost while they held it. */
export class TaskLost extends Schema.TaggedError<TaskLost>()("TaskLost", {
  id: Schema.String,
  message: Schema.String
}) {}

/** The task ended FAILED: its last attempt took longer than its `timeout`. */
export class TaskTimedOut extends Schema.TaggedError<TaskTimedOut>()("TaskTimedOut", {
  id: Schema.String,
  message: Schema.String
}) {}

/** The task ended CANCELLED. */
export class TaskCancelled extends Schema.TaggedError<TaskCancelled>()("TaskCancelled", { id: Schema.String }) {
  override get message(): string {
    return `task ${this.id} was cancelled`
  }
}

/** The task ended EXPIRED: it had not started by the time until which it was good. */
export class TaskExpired extends Schema.TaggedError<TaskExpired>()("TaskExpired", { id: Schema.String }) {
  override get message(): string {
    return `task ${this.id} expired: it had not started by the time until which it was good`
  }
}

/** The task has not ended within the time given to `awaitFor`. It goes on, and can be awaited again. */
export class WaitTimedOut extends Schema.TaggedError<WaitTimedOut>()("WaitTimedOut", {
  id: Schema.String,
  message: Schema.String
}) {}

/**
 * There is no such task any more, and it was sent so long ago that its result need not be kept any longer. It may also
 * never have been sent: nobody can tell.
 */
export class ResultNotKept extends Schema.TaggedError<ResultNotKept>()("ResultNotKept", { id: Schema.String }) {
  override get message(): string {
    return `the result of task ${this.id} is no longer kept; a longer \`retention\` of its definition keeps it longer`
  }
}

/** What was stored does not fit the definition's schema: the payload for its handler, or the result for who awaits it. */
export class DecodeError extends Schema.TaggedError<DecodeError>()("DecodeError", {
  id: Schema.String,
  message: Schema.String
}) {}

/** Why awaiting a task failed, apart from the definition's own error. */
export type AwaitError =
  | TaskDefect
  | TaskLost
  | TaskTimedOut
  | TaskCancelled
  | TaskExpired
  | WaitTimedOut
  | ResultNotKept
  | DecodeError
  | TaskNotFound
  | BrokerError
