/** Asking the broker about tasks in every way there is. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import { type Filter, TaskState } from "../../Broker.ts"
import { compareAll, compareOutcome, compareReason, compareTask } from "./comparing.ts"
import type { ModelTask } from "./ModelTask.ts"
import { show } from "./rules.ts"
import type { World } from "./World.ts"

/** More than a sequence can have sent. */
const all = 1000

/** Everything that the broker has of this sequence against the model. */
export const check = Effect.fnUntraced(function*({ broker, model, tags }: World) {
  compareAll(model, yield* broker.list({ tags }, { limit: all }))
})

/** The same by queue, so that what nobody has sent comes to light, and what each worker holds. */
export const checkThoroughly = Effect.fnUntraced(function*({ broker, model, queues }: World) {
  const lists = yield* Effect.forEach(queues, (queue) => broker.list({ queue }, { limit: all }))
  const records = lists.flat().toSorted((a, b) => a.id < b.id ? 1 : -1)
  compareAll(model, records)
  for (const queue of queues) {
    const { limits, paused } = yield* broker.queue(queue)
    const expected = model.queue(queue).settings
    const { concurrency } = expected.limits
    model.expect(
      paused === expected.paused && limits.concurrency === concurrency &&
        limits.perKey?.concurrency === expected.limits.perKey?.concurrency &&
        limits.rate?.limit === expected.limits.rate?.limit,
      "answers",
      () => `${queue} has ${show({ limits, paused })}, not ${show(expected)}`
    )
  }
  for (const worker of model.workers) {
    const holds = (yield* broker.holds(worker.id)).map(({ fence, id }) => `${model.alias(id)} (fence ${fence})`).sort()
    const expected = model.claimed
      .filter((task) => task.worker === worker.id)
      .map(({ alias, fence }) => `${alias} (fence ${fence})`)
      .sort()
    model.expect(show(holds) === show(expected), "fences", () => `${worker.alias} holds ${holds}, not ${expected}`)
  }
})

export const look = Effect.fnUntraced(function*({ broker, model, trace }: World, task: ModelTask | undefined) {
  if (task === undefined) return
  trace.push(`look at ${task.alias}`)
  const record = yield* broker.find(task.id)
  model.expect(Option.isSome(record), "kept", () => `${task.alias} is not found`)
  if (Option.isSome(record)) compareTask(model, task, record.value)
  compareReason(model, task, yield* broker.whyNotRunning(task.id))
  if (task.endedAt !== undefined) {
    const outcome = yield* Effect.exit(broker.outcome(task.id))
    if (Exit.isSuccess(outcome)) compareOutcome(model, task, outcome.value)
    else model.expect(false, "outcomes", () => `${task.alias} has ended, and its outcome is ${outcome.cause}`)
  }
})

export const list = Effect.fnUntraced(
  function*({ broker, model, trace }: World, filter: Filter, chosen: number, limit: number) {
    const states = chosen % 3 === 0 ? undefined : TaskState.literals.filter((_, i) => (chosen >> i) % 2 === 1)
    trace.push(`list ${show(filter)} ${show({ states, limit })}`)
    const fitting = model.matching(filter)
      .filter(({ state }) => states === undefined || states.includes(state))
      .toSorted((a, b) => a.id < b.id ? 1 : -1)
      .map(({ id }) => id)
    const first = (yield* broker.list(filter, { states, limit })).map(({ id }) => id)
    const last = first.at(-1)
    const rest = last === undefined
      ? []
      : (yield* broker.list(filter, { states, limit: all, before: last })).map(({ id }) => id)
    model.expect(
      show([first, rest]) === show([fitting.slice(0, limit), fitting.slice(limit)]),
      "answers",
      () => `listed ${[...first, ...rest].map((id) => model.alias(id))}, not ${fitting.map((id) => model.alias(id))}`
    )
  }
)

/** Begins to wait for an outcome; it is looked at when everything has ended. */
export const await_ = Effect.fnUntraced(function*({ broker, trace, waiters }: World, task: ModelTask | undefined) {
  if (task === undefined || task.endedAt !== undefined) return
  trace.push(`await ${task.alias}`)
  waiters.push({ id: task.id, fiber: yield* Effect.forkDetach(broker.outcome(task.id), { startImmediately: true }) })
})

/** Whether all that waited were told. */
export const checkWaiters = Effect.fnUntraced(function*({ model, waiters }: World) {
  for (const { fiber, id } of waiters) {
    const exit = yield* Fiber.await(fiber).pipe(
      Effect.timeoutOption("5 seconds"),
      // The clock of a test may stand still.
      Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
    )
    const task = model.tasks.get(id)
    if (Option.isSome(exit) && Exit.isSuccess(exit.value)) {
      if (task !== undefined) compareOutcome(model, task, exit.value.value)
    } else model.expect(task === undefined, "outcomes", () => `who awaits ${model.alias(id)} was told ${show(exit)}`)
  }
})
