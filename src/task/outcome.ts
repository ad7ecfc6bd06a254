/** From how a task ended to what who awaits it gets. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import { Broker, type Failure, type Outcome, type TaskNotFound } from "../Broker.ts"
import type { CodecError } from "./codec.ts"
import type { Definition } from "./definition.ts"
import {
  type AwaitError,
  DecodeError,
  ResultNotKept,
  TaskCancelled,
  TaskDefect,
  TaskExpired,
  TaskLost,
  TaskTimedOut,
  WaitTimedOut
} from "./errors.ts"
import { timeOfId } from "./ids.ts"

/** What awaiting a task gives. */
export type Awaited<Success extends Schema.Top, Error extends Schema.Top> = Effect.Effect<
  Success["Type"],
  Error["Type"] | AwaitError,
  Broker | Success["DecodingServices"] | Error["DecodingServices"]
>

/** Waits for the outcome of a task. */
export const awaitOutcome = <Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>(
  definition: Definition<Payload, Success, Error>,
  id: string
): Awaited<Success, Error> =>
  Broker.use((broker) =>
    broker.outcome(id).pipe(
      Effect.catchTag("TaskNotFound", (error) =>
        Effect.flatMap(
          definition.retention === undefined ? broker.retention : Effect.succeed(definition.retention),
          (retention) => notKept(error, retention)
        )),
      Effect.flatMap((outcome) => decodeOutcome(definition, id, outcome))
    )
  )

/** Waits for the outcome of a task, but not for longer than this. */
export const awaitOutcomeFor = <Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>(
  definition: Definition<Payload, Success, Error>,
  id: string,
  duration: Duration.Input
): Awaited<Success, Error> =>
  Effect.timeoutOrElse(awaitOutcome(definition, id), {
    duration,
    orElse: () =>
      Effect.fail(
        new WaitTimedOut({
          id,
          message: `task ${id} has not ended within ${Duration.format(Duration.fromInputUnsafe(duration))}`
        })
      )
  })

/** Tells apart what was never there from what may have been there for as long as it is kept. */
const notKept = (error: TaskNotFound, retention: number): Effect.Effect<never, TaskNotFound | ResultNotKept> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const sentAt = timeOfId(error.id)
    return Effect.fail(
      sentAt !== undefined && sentAt + retention < now ? new ResultNotKept({ id: error.id }) : error
    )
  })

const decodeOutcome = <Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>(
  definition: Definition<Payload, Success, Error>,
  id: string,
  outcome: Outcome
): Awaited<Success, Error> => {
  const undecodable = (error: CodecError) =>
    new DecodeError({ id, message: `the result of task ${id} does not decode: ${error.message}` })
  switch (outcome._tag) {
    case "Completed":
      return Effect.mapError(definition.success.decode(outcome.value), undecodable)
    case "Failed":
      return outcome.failure.kind === "Error"
        ? definition.error.decode(outcome.failure.value).pipe(
          Effect.mapError(undecodable),
          Effect.flatMap(Effect.fail)
        )
        : Effect.fail(failureOf(id, outcome.failure.kind, describe(outcome.failure.value)))
    case "Cancelled":
      return Effect.fail(new TaskCancelled({ id }))
    case "Expired":
      return Effect.fail(new TaskExpired({ id }))
  }
}

const failureOf = (id: string, kind: Exclude<Failure["kind"], "Error">, text: string): AwaitError => {
  switch (kind) {
    case "Defect":
      return new TaskDefect({ id, defect: text })
    case "Payload":
      return new DecodeError({ id, message: `the payload of task ${id} does not decode: ${text}` })
    case "Timeout":
      return new TaskTimedOut({ id, message: `task ${id}: ${text}` })
    case "Lost":
      return new TaskLost({ id, message: `task ${id}: ${text}` })
  }
}

const describe = (json: string): string => {
  const value: unknown = JSON.parse(json)
  return typeof value === "string" ? value : json
}
