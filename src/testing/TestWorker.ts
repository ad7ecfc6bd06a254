/**
 * A worker that does nothing by itself: a test says when a task is run.
 *
 * `TestWorker.layer` takes the place of `Worker.layer`: handlers register with it, over any broker. What it runs goes the
 * way that it goes in production, from claim to recorded end, with retries, timeouts, transactions and the limits of
 * queues. Only the loops are missing. Tasks run one at a time, so a handler of batches gets batches of one.
 *
 * - `runNext` runs the most urgent task that is ready.
 * - `drain` runs until nothing is ready, tasks that handlers send included. With `due: true`, it also moves the clock to
 *   each next due time: `TestClock` over the broker in memory, and over PostgreSQL the clock of `DatabaseClock.layer`,
 *   which then has to be there.
 *
 * @example
 * ```ts
 * import { MemoryBroker } from "effect-horsies"
 * import * as TestWorker from "effect-horsies/testing/TestWorker"
 * import { it } from "@effect/vitest"
 * import { Effect, Layer } from "effect"
 *
 * const Test = RemindLive.pipe(
 *   Layer.provideMerge(TestWorker.layer),
 *   Layer.provideMerge(MemoryBroker.layer)
 * )
 *
 * it.effect("reminds in an hour", () =>
 *   Effect.gen(function*() {
 *     yield* Remind.send({ email: "ada@example.com" }, { delay: "1 hour" })
 *     assert.isTrue(Option.isNone(yield* TestWorker.runNext))
 *     yield* TestWorker.drain({ due: true })
 *     assert.deepStrictEqual(outbox, ["ada@example.com"])
 *   }).pipe(Effect.provide(Test)))
 * ```
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import type { TestClock } from "effect/testing/TestClock"
import { Broker, type BrokerError, type ClaimedTask, type TaskRecord, type Want } from "../Broker.ts"
import { type Handler, Handlers } from "../Task.ts"
import * as Worker from "../Worker.ts"
import { DatabaseClock } from "./internal/DatabaseClock.ts"
import * as Gate from "./internal/Gate.ts"

/** How to drain. */
export interface DrainOptions {
  /** Whether to move the clock to the next due time whenever nothing is ready. Default: `false`. */
  readonly due?: boolean | undefined
  /** The most runs, and the most moves of the clock. Default: 1000. */
  readonly limit?: number | undefined
}

/** `drain` has come to its limit, and there is more to do. Mostly, a task sends itself for ever. */
export class DrainLimitReached extends Schema.TaggedError<DrainLimitReached>()("DrainLimitReached", {
  limit: Schema.Int,
  message: Schema.String
}) {}

/** A worker in the hands of a test. */
export class TestWorker extends Context.Service<TestWorker, {
  /** See `TestWorker.runNext`. */
  readonly runNext: Effect.Effect<Option.Option<TaskRecord>, BrokerError>
  /** See `TestWorker.drain`. */
  readonly drain: (
    options?: DrainOptions
  ) => Effect.Effect<ReadonlyArray<TaskRecord>, BrokerError | DrainLimitReached>
}>()("effect-horsies/testing/TestWorker") {}

/**
 * Runs the most urgent task that is ready and has a handler here, and gives its record once its end is recorded; none when
 * there is none. Of several queues it compares the first task that each would give; the others are handed back, which
 * raises their fence, and takes from the rate limit of their queue.
 *
 * A task that fails does not fail the run: its record says how it has ended, or that it waits for its next attempt. Fails
 * with a `BrokerError` when the broker does.
 *
 * A handler that sleeps needs somebody who moves the clock meanwhile:
 *
 * @example
 * ```ts
 * const run = yield* Effect.forkChild(TestWorker.runNext)
 * yield* TestClock.adjust("1 minute")
 * const record = yield* Fiber.join(run)
 * ```
 */
export const runNext: Effect.Effect<Option.Option<TaskRecord>, BrokerError, TestWorker> = TestWorker.use((worker) =>
  worker.runNext
)

/**
 * Runs tasks until nothing is ready, and gives the record of each run, in their order: a task that was tried three times
 * is there three times. With `due: true`, until nothing waits for its time either.
 *
 * Fails with `DrainLimitReached` when there is more to do after `limit` runs.
 *
 * @example
 * ```ts
 * const records = yield* TestWorker.drain({ due: true })
 * assert.deepStrictEqual(records.map(({ name, state }) => [name, state]), [["Remind", "COMPLETED"]])
 * ```
 */
export const drain = (
  options?: DrainOptions
): Effect.Effect<ReadonlyArray<TaskRecord>, BrokerError | DrainLimitReached, TestWorker> =>
  TestWorker.use((worker) => worker.drain(options))

/** Longer than any test lets pass: the worker must not lose its lease. */
const heartbeatInterval = Duration.days(36_500)

/** Runs that were begun and not waited for must not stand in the way of the next. */
const concurrency = 1000

const byUrgency = (a: ClaimedTask, b: ClaimedTask) =>
  a.priority - b.priority || b.waited - a.waited || (a.id < b.id ? -1 : 1)

const isTestClock = (clock: Clock.Clock): clock is TestClock => Predicate.hasProperty(clock, "adjust")

const adjust = (millis: number) =>
  Clock.clockWith((clock) =>
    isTestClock(clock)
      ? clock.adjust(Duration.millis(millis))
      : Effect.die(new Error("TestWorker.drain: there is no TestClock that could be moved; leave out `due`"))
  )

const make = Effect.gen(function*() {
  const broker = yield* Broker
  const clock = yield* Effect.serviceOption(DatabaseClock)
  const gate = yield* Gate.make(broker)
  const built = yield* Layer.build(
    Layer.fresh(Worker.layer({ concurrency, heartbeatInterval, shutdownTimeout: 0 })).pipe(
      Layer.provide(Layer.succeed(Broker, gate.broker))
    )
  )
  const worker = Context.get(built, Handlers)
  const handlers = new Set<Handler>()
  const oneAtATime = yield* Semaphore.make(1)

  const register = Effect.fnUntraced(function*(handler: Handler) {
    yield* worker.register(handler)
    yield* Effect.acquireRelease(
      Effect.sync(() => handlers.add(handler)),
      () => Effect.sync(() => handlers.delete(handler))
    )
    yield* Effect.orDie(gate.handle([...handlers].map(({ definition }) => definition)))
  })

  const queues = () => new Set([...handlers].map(({ definition }) => definition.queue))

  const wants = (): ReadonlyArray<Want> =>
    [...queues()].map((queue) => ({
      queue,
      handles: [...handlers].flatMap(({ definition }) =>
        definition.queue === queue ? [{ name: definition.name, version: definition.version }] : []
      ),
      slots: 1,
      ahead: 0
    }))

  /** Makes ready what is due. Gives the milliseconds until there is more, if anything waits for its time. */
  const promote = Effect.suspend(() =>
    handlers.size === 0
      ? Effect.undefined
      : Effect.repeat(broker.promote([...queues()]), {
        until: (next) => next === undefined || next > 0
      })
  )

  /** Claims the most urgent task that is ready, and tells when there may be more. */
  const claim = Effect.gen(function*() {
    let next = (yield* promote) ?? Number.POSITIVE_INFINITY
    const id = yield* gate.worker
    for (let wanted = wants(); wanted.length > 0;) {
      const { again, tasks } = yield* broker.claim(id, wanted)
      const [first, ...others] = tasks.toSorted(byUrgency)
      if (others.length > 0) yield* broker.release(id, others)
      if (first !== undefined) return { task: first, next }
      for (const wait of again.values()) next = Math.min(next, wait > 0 ? wait : next)
      // Those that say 0 have not given all that they have.
      wanted = wanted.filter(({ queue }) => again.get(queue) === 0)
    }
    return { task: undefined, next }
  }).pipe(oneAtATime.withPermit)

  const run = (task: ClaimedTask) =>
    Effect.andThen(
      gate.run(task),
      Effect.flatMap(broker.find(task.id), (record) =>
        Option.isSome(record)
          ? Effect.succeed(record.value)
          : Effect.die(new Error(`TestWorker: task ${task.id} has run, but is not kept`)))
    )

  const limitReached = (limit: number, message: string) => new DrainLimitReached({ limit, message })

  return {
    handlers: Handlers.of({ transactions: worker.transactions, register }),
    runNext: Effect.flatMap(claim, ({ task }) => task === undefined ? Effect.succeedNone : Effect.asSome(run(task))),
    drain: Effect.fnUntraced(function*({ due = false, limit = 1000 }: DrainOptions = {}) {
      const records: Array<TaskRecord> = []
      for (let moves = 0;;) {
        const { next, task } = yield* claim
        if (task !== undefined) {
          if (records.length >= limit) {
            yield* broker.release(yield* gate.worker, [task])
            const last = records.slice(-3).map(({ name }) => name).join(", ")
            return yield* limitReached(
              limit,
              `${limit} tasks were run, the last ones ${last}, and ${task.name} is ready: does a task send itself for ever? ` +
                "If that many are meant, give a higher limit"
            )
          }
          records.push(yield* run(task))
        } else if (due && next !== Number.POSITIVE_INFINITY) {
          if (moves++ >= limit) {
            return yield* limitReached(
              limit,
              `the clock was moved ${limit} times, and there still are tasks that wait for their time` +
                (Option.isSome(clock) ? "" : "; over PostgreSQL, its own clock is moved by DatabaseClock.layer")
            )
          }
          const wait = Math.ceil(next)
          yield* Option.isSome(clock) ? clock.value.advance(wait) : adjust(wait)
        } else {
          return records
        }
      }
    })
  }
})

/**
 * The worker, and the place where handlers register with it. Building it fails when the broker cannot be reached. Closing
 * it interrupts what still runs and hands it back.
 */
export const layer: Layer.Layer<Handlers | TestWorker, BrokerError, Broker> = Layer.effectContext(
  Effect.map(
    make,
    ({ drain, handlers, runNext }) => Context.make(Handlers, handlers).pipe(Context.add(TestWorker, { runNext, drain }))
  )
)
