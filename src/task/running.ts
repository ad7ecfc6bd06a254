/** Runs handlers on claimed tasks, and says how each attempt has ended. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Predicate from "effect/Predicate"
import type * as Schema from "effect/Schema"
import type { AttemptEnd, ClaimedTask } from "../Broker.ts"
import { CurrentTask, Snooze } from "./CurrentTask.ts"
import { type Definition, known } from "./definition.ts"
import type { Handler, Starting } from "./Handlers.ts"
import { mostJson } from "./limits.ts"
import { allows, retryDelay } from "./retrying.ts"

/** One task of a batch: what its handler is to work on, and what it can know of the run. */
export interface BatchTask<A> {
  readonly payload: A
  readonly task: CurrentTask["Service"]
}

/** The payload does not decode: no handler has seen it. */
class Undecodable {
  readonly message: string
  constructor(message: string) {
    this.message = message
  }
}

const failedAs = (kind: "Error" | "Defect" | "Payload", value: string): AttemptEnd => ({
  _tag: "Failed",
  failure: { kind, value }
})

/** What is kept of the text of a defect, in characters. */
const mostText = 100_000

const describeDefect = (defect: unknown): string => textOf(defect).slice(0, mostText)

const textOf = (defect: unknown): string =>
  Predicate.isError(defect)
    ? defect.stack ?? defect.message
    : typeof defect === "string"
    ? defect
    : Cause.pretty(Cause.die(defect))

const defective = (defect: unknown) => failedAs("Defect", JSON.stringify(describeDefect(defect)))

const currentTask = ({ attempt, fence, id, losses, name, priority, queue }: ClaimedTask, waited: number) => ({
  id,
  name,
  queue,
  priority,
  attempt,
  losses,
  fence,
  waited: Duration.millis(waited),
  answer: undefined
})

/** What every way to run a definition's tasks has in common. */
const common = <Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>(
  definition: Definition<Payload, Success, Error>
) => {
  const { retry } = definition

  const failed: Handler["failed"] = (task, failure) =>
    retry === undefined
      ? Effect.succeed({ _tag: "Failed", failure })
      : retryDelay(retry, task.attempt).pipe(
        Effect.map((delay): AttemptEnd =>
          delay === undefined ? { _tag: "Failed", failure } : { _tag: "Retry", failure, delay }
        ),
        // A schedule that throws.
        Effect.catchCause((cause) => Effect.succeed(defective(Cause.squash(cause))))
      )

  const died = (task: ClaimedTask, defect: unknown) =>
    failed(task, { kind: "Defect", value: JSON.stringify(describeDefect(defect)) })

  const interruptedItself: Handler["interruptedItself"] = (task, cause) =>
    died(task, Cause.hasInterruptsOnly(cause) ? "the handler interrupted itself" : Cause.squash(cause))

  const failedWith = (task: ClaimedTask, error: Error["Type"], answer: CurrentTask["Service"]["answer"]) =>
    Effect.matchEffect(definition.error.encode(error), {
      onFailure: (problem) => Effect.succeed(defective(`the error does not encode: ${problem.message}`)),
      onSuccess: (value): Effect.Effect<AttemptEnd> => {
        if (value.length > mostJson) {
          return Effect.succeed(
            defective(`the error has ${value.length} characters of JSON; at most ${mostJson} are kept`)
          )
        }
        const said = answer !== undefined && answer.error === error ? answer.retry : undefined
        if (typeof said === "number" && allows(retry, task.attempt)) {
          return Effect.succeed({ _tag: "Retry", failure: { kind: "Error", value }, delay: said })
        }
        return said === undefined && (retry?.while?.(error) ?? true)
          ? failed(task, { kind: "Error", value })
          : Effect.succeed(failedAs("Error", value))
      }
    })

  const completed = (value: Success["Type"]) =>
    Effect.match(definition.success.encode(value), {
      onFailure: (problem) => defective(`the result does not encode: ${problem.message}`),
      onSuccess: (value): AttemptEnd =>
        value.length > mostJson
          ? defective(`the result has ${value.length} characters of JSON; at most ${mostJson} are kept`)
          : { _tag: "Completed", value }
    })

  const unsuccessful = (
    task: ClaimedTask,
    cause: Cause.Cause<Error["Type"] | Undecodable>,
    answer: CurrentTask["Service"]["answer"]
  ) => {
    const failure = cause.reasons.find(Cause.isFailReason)
    if (failure !== undefined) {
      return failure.error instanceof Undecodable
        ? Effect.succeed(failedAs("Payload", JSON.stringify(failure.error.message)))
        : failedWith(task, failure.error, answer)
    }
    for (const reason of cause.reasons) {
      if (Cause.isDieReason(reason) && reason.defect instanceof Snooze) {
        return Effect.succeed<AttemptEnd>({ _tag: "Snoozed", delay: reason.defect.delay })
      }
    }
    // Who interrupts a handler has more to say of it than a finalizer that died on the way.
    return Cause.hasInterrupts(cause)
      ? Effect.failCause(cause as Cause.Cause<never>)
      : died(task, Cause.squash(cause))
  }

  const endOf = (
    task: ClaimedTask,
    exit: Exit.Exit<Success["Type"], Error["Type"] | Undecodable>,
    answer: CurrentTask["Service"]["answer"]
  ) => Exit.isSuccess(exit) ? completed(exit.value) : unsuccessful(task, exit.cause, answer)

  const decode = (task: ClaimedTask) =>
    Effect.mapError(
      definition.decodePayload(task.payload, task.version),
      (error) => new Undecodable(error.message)
    )

  /** A schema or a retry predicate that throws ends the task: it would throw again. */
  const caught = (cause: Cause.Cause<never>): Effect.Effect<AttemptEnd> =>
    Cause.hasInterrupts(cause) ? Effect.failCause(cause) : Effect.succeed(defective(Cause.squash(cause)))

  return { failed, died, interruptedItself, endOf, decode, caught }
}

/** A handler of single tasks. */
export const handlerOf = <Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top, R>(
  definition: Definition<Payload, Success, Error>,
  handler: (payload: Payload["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>,
  context: Context.Context<R>,
  transaction: boolean
): Handler => {
  const { caught, decode, endOf, failed, interruptedItself } = common(definition)
  return {
    definition: known(definition),
    transaction,
    failed,
    interruptedItself,
    batch: undefined,
    run: (task, waited) => {
      const current: CurrentTask["Service"] = currentTask(task, waited)
      return Effect.exit(Effect.interruptible(Effect.scoped(Effect.flatMap(decode(task), handler)))).pipe(
        Effect.flatMap((exit) => endOf(task, exit, current.answer)),
        Effect.catchCause(caught),
        Effect.provideContext(Context.add(context, CurrentTask, current))
      ) as Effect.Effect<AttemptEnd>
    }
  }
}

/** A handler of whole batches. */
export const batchHandlerOf = <Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top, R>(
  definition: Definition<Payload, Success, Error>,
  handler: (
    batch: readonly [BatchTask<Payload["Type"]>, ...ReadonlyArray<BatchTask<Payload["Type"]>>]
  ) => Effect.Effect<ReadonlyArray<Exit.Exit<Success["Type"], Error["Type"]>>, never, R>,
  context: Context.Context<R>,
  size: number
): Handler => {
  const { caught, decode, died, endOf, failed, interruptedItself } = common(definition)

  /** An exit for each task of the batch: for those that do not decode, and for those that the handler has seen. */
  const exits = Effect.fnUntraced(function*(starting: ReadonlyArray<Starting>) {
    const decoded = yield* Effect.forEach(starting, ({ task }) => Effect.exit(decode(task)))
    const batch: Array<BatchTask<Payload["Type"]>> = []
    const currents = starting.map(({ task, waited }, i): CurrentTask["Service"] => {
      const current: CurrentTask["Service"] = currentTask(task, waited)
      const exit = decoded[i]!
      if (Exit.isSuccess(exit)) batch.push({ payload: exit.value, task: current })
      return current
    })
    const [first, ...rest] = batch
    const found = first === undefined ? [] : yield* handler([first, ...rest])
    if (found.length !== batch.length) {
      return yield* Effect.die(
        new globalThis.Error(`the handler gave ${found.length} exits for a batch of ${batch.length}`)
      )
    }
    let next = 0
    return decoded.map((exit, i) => ({
      exit: Exit.isSuccess(exit) ? found[next++]! : exit,
      answer: currents[i]!.answer
    }))
  })

  const run = (starting: ReadonlyArray<Starting>) =>
    Effect.exit(Effect.interruptible(Effect.scoped(exits(starting)))).pipe(
      Effect.flatMap((all) =>
        Exit.isFailure(all) && Cause.hasInterrupts(all.cause)
          ? Effect.failCause(all.cause)
          : Effect.forEach(starting, ({ task }, i) => {
            if (Exit.isFailure(all)) return died(task, Cause.squash(all.cause))
            const { answer, exit } = all.value[i]!
            return endOf(task, exit, answer).pipe(
              Effect.catchCause((cause) => Cause.hasInterrupts(cause) ? interruptedItself(task, cause) : caught(cause))
            )
          })
      ),
      Effect.provideContext(context)
    ) as Effect.Effect<ReadonlyArray<AttemptEnd>>

  return {
    definition: known(definition),
    transaction: false,
    failed,
    interruptedItself,
    batch: { size, run },
    run: (task, waited) => Effect.map(run([{ task, waited }]), ([end]) => end!)
  }
}
