/** What a handler can know of its own run, and what it can answer beside its outcome. */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { lowestPriority } from "../Broker.ts"
import { millisOf } from "./limits.ts"

/** The queue of definitions that name none. */
export const defaultQueue = "default"

/** What a handler can know of its own run. */
export class CurrentTask extends Context.Service<CurrentTask, {
  readonly id: string
  readonly name: string
  readonly queue: string
  readonly priority: number
  /** Which attempt this is, from 1. */
  readonly attempt: number
  /** How many workers were lost while they held this task. */
  readonly losses: number
  /** Raised by every claim: pass it along with writes elsewhere, and refuse a lower one there. */
  readonly fence: number
  /** From the task's due time to the start of this run. */
  readonly waited: Duration.Duration
  /** What `Task.fail` has said about another attempt. It counts when the run fails with that very error. */
  answer?: { readonly error: unknown; readonly retry: false | number } | undefined
}>()("effect-horsies/Task/CurrentTask") {}

/**
 * A `CurrentTask` for the test of a handler alone; give what matters to it.
 *
 * @example
 * ```ts
 * handler({ name: "Ada" }).pipe(Effect.provide(Task.layerCurrentTask({ attempt: 3 })))
 * ```
 */
export const layerCurrentTask = (task: Partial<CurrentTask["Service"]> = {}): Layer.Layer<CurrentTask> =>
  Layer.sync(CurrentTask, () => ({
    id: "00000000-0000-7000-8000-000000000000",
    name: "Test",
    queue: defaultQueue,
    priority: lowestPriority,
    attempt: 1,
    losses: 0,
    fence: 1,
    waited: Duration.zero,
    ...task
  }))

/** How a run ends that postpones its task: a defect, so that no handler of typed errors catches it. */
export class Snooze extends Data.TaggedError("Snooze")<{ readonly delay: number }> {
  override get message(): string {
    return `the task is postponed by ${this.delay} milliseconds`
  }
}

/** Durations in a handler are constants of a program or computed by it, so a bad one is a defect of it. */
const millis = (what: string, duration: Duration.Input): number => {
  const found = millisOf(duration)
  if (found === undefined) throw new Error(`${what}: write a duration between 0 and 2000 years`)
  return found
}

/**
 * Postpones the task from inside its handler: it ends here, and runs again after this time. No attempt is counted. What
 * the handler has opened is closed, as after a failure.
 *
 * @example
 * ```ts
 * const handler = ({ order }: { readonly order: string }) =>
 *   Effect.gen(function*() {
 *     if (!(yield* isPaid(order))) return yield* Task.snooze("10 minutes")
 *     yield* ship(order)
 *   })
 * ```
 */
export const snooze = (duration: Duration.Input): Effect.Effect<never, never, CurrentTask> =>
  CurrentTask.use(() => Effect.die(new Snooze({ delay: millis("Task.snooze", duration) })))

/** The exit of one task of a batch that is postponed by this time. No attempt is counted. */
export const snoozed = (duration: Duration.Input): Exit.Exit<never> =>
  Exit.die(new Snooze({ delay: millis("Task.snoozed", duration) }))

/**
 * Fails the attempt and says whether and when there is to be another, whatever the definition's `schedule` and `while`
 * say. `retry: false`: the task ends FAILED. A duration: it runs again after that, if `times` of the definition still
 * allows it; a definition without `retry` allows none.
 *
 * The answer belongs to this error. A handler that catches it and fails with another goes by the definition.
 *
 * @example
 * ```ts
 * const handler = (payload: { readonly url: string }) =>
 *   Effect.catchTag(fetchPage(payload.url), "TooManyRequests", (error) =>
 *     Task.fail(error, { retry: error.retryAfter }))
 * ```
 */
export const fail = <E>(
  error: E,
  options: { readonly retry: false | Duration.Input }
): Effect.Effect<never, E, CurrentTask> =>
  CurrentTask.use((task) => {
    task.answer = { error, retry: options.retry === false ? false : millis("Task.fail", options.retry) }
    return Effect.fail(error)
  })
