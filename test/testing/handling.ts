/** What tests of the test worker share. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { TaskRecord } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import * as TestWorker from "../../src/testing/TestWorker.ts"

/** Definitions and queues that no other test uses. */
export const define = (test: string) => {
  class Work extends Task.make(`${test}: work`, {
    payload: { n: Schema.Int },
    success: Schema.Int,
    queue: `${test}: work`
  }) {}
  class More extends Task.make(`${test}: more`, { payload: { n: Schema.Int }, queue: `${test}: more` }) {}
  return { Work, More }
}

/** Gives an effect a worker of its own with these handlers. */
export const withHandlers =
  <HE, HR>(handlers: Layer.Layer<never, HE, HR>) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.provide(effect, Layer.provideMerge(handlers, TestWorker.layer), { local: true })

export const summary = (records: ReadonlyArray<TaskRecord>) => records.map(({ id, state }) => [id, state] as const)

export const next = Effect.map(TestWorker.runNext, Option.getOrThrow)
